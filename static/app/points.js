// A column with the same points in the zone of whoever looks.

export function mount(table) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const form = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" });
  const day = new Intl.DateTimeFormat("en", { weekday: "short" });
  const head = table.querySelector("[data-viewer-zone]");
  head.textContent = `${zone}, where you are`;
  head.hidden = false;
  for (const row of table.tBodies[0].rows) {
    const at = new Date(row.querySelector("time").dateTime);
    const cell = row.querySelector("[data-viewer]");
    cell.textContent = `${day.format(at)} ${form.format(at)}`;
    cell.hidden = false;
  }
}
