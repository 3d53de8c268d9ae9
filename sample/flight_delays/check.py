"""Fails unless the results hold every flight once and every minute of delay once.

What is expected of the tables stands in the job's parameters; the rest must agree with
itself: two ways of grouping the same flights add up to the same sums.
"""

import csv
import json
import os
import sys
from pathlib import Path

DATA = Path(os.environ["RUNYARD_DATA"], "flight_delays")
OUTPUTS = Path(os.environ["RUNYARD_OUTPUT_DIR"])


def result(name: str) -> list[dict]:
    """The rows of a result that Spark wrote as JSON lines."""
    files = sorted((DATA / name).glob("part-*.json"))
    if not files:
        sys.exit(f"quality check failed: there is no result {name} in {DATA}")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


with (DATA / "tables.csv").open(newline="") as file:
    tables = {row["table"]: int(row["rows"]) for row in csv.DictReader(file)}
carriers, weather = result("delays_by_carrier"), result("delays_by_weather")

# What is checked, what was found, what it should be.
checks = [
    (f"rows of {name}", tables.get(name), int(os.environ[f"EXPECTED_{name.upper()}"]))
    for name in ("flights", "airlines", "airports", "planes", "weather")
]
checks += [
    ("carriers", len({row["carrier"] for row in carriers}), tables["airlines"]),
    ("rows by carrier", len(carriers), tables["airlines"]),
    ("carriers with a name", sum("airline" in row for row in carriers), tables["airlines"]),
]
for name, rows in (("carrier", carriers), ("weather", weather)):
    # Spark leaves out what is NULL, such as the minutes of a carrier that never arrived.
    sums = {
        key: sum(row.get(key, 0) for row in rows) for key in ("flights", "arrived", "delay_minutes")
    }
    checks += [
        (f"flights by {name}, added up", sums["flights"], tables["flights"]),
        (f"arrived by {name}, added up", sums["arrived"], int(os.environ["EXPECTED_ARRIVED"])),
        (
            f"delay minutes by {name}, added up",
            sums["delay_minutes"],
            int(os.environ["EXPECTED_DELAY_MINUTES"]),
        ),
    ]

with (OUTPUTS / "checks.csv").open("w", newline="") as out:
    table = csv.writer(out)
    table.writerow(("check", "found", "expected", "result"))
    for what, found, expected in checks:
        verdict = "ok" if found == expected else "off"
        table.writerow((what, found, expected, verdict))
        print(f"{verdict:<3} {what}: {found}", flush=True)

off = [f"{what}: {found}, not {expected}" for what, found, expected in checks if found != expected]
if off:
    sys.exit(f"quality check failed: {len(off)} of {len(checks)} are off: {'; '.join(off)}")
print(f"all {len(checks)} checks hold")
