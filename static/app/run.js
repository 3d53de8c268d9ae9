// The run page: one node is selected everywhere, and only the side panel changes. Until somebody
// has chosen a node, the server says which it is: the first that failed, else one that runs.

export function mount(page) {
  let chosen = new URL(location.href).searchParams.get("node");
  let asked = null; // what was chosen when the refresh was sent

  function select(key) {
    chosen = key;
    for (const each of page.querySelectorAll("[data-node]")) {
      const on = each.dataset.node === key;
      if (each.localName === "tr") each.classList.toggle("oc-selected", on);
      else if (on) each.setAttribute("aria-current", "true");
      else each.removeAttribute("aria-current");
    }
  }

  const click = (event) => {
    const panel = event.target.closest("#oc-node");
    if (panel) chosen = panel.dataset.key; // who works in it wants to keep it
    const target = event.target.closest("[data-node], [data-select]");
    if (!target || event.ctrlKey || event.metaKey || event.target.closest("[data-oc-away]")) return;
    const key = target.dataset.node ?? target.dataset.select;
    select(key);
    if (event.target.closest("a[hx-get]")) return; // htmx does it
    event.preventDefault();
    for (const link of page.querySelectorAll("a[hx-get][data-select]")) {
      if (link.dataset.select === key) link.click();
    }
  };
  // The refresh keeps what was chosen, and says what the panel shows, so that it can bring the
  // panel along. An answer that a click has overtaken is dropped.
  const configure = ({ detail }) => {
    if (detail.elt.id !== "oc-live") return;
    asked = chosen;
    if (chosen) detail.parameters.node = chosen;
    detail.parameters.panel = page.querySelector("#oc-node")?.dataset.key ?? "";
  };
  const arrive = ({ detail }) => {
    if (detail.elt.id === "oc-live" && asked !== chosen) detail.shouldSwap = false;
  };
  const visible = () => {
    if (!document.hidden) document.body.dispatchEvent(new Event("oc:state"));
  };
  page.addEventListener("click", click);
  document.addEventListener("htmx:configRequest", configure);
  document.addEventListener("htmx:beforeSwap", arrive);
  document.addEventListener("visibilitychange", visible);
  return () => {
    document.removeEventListener("htmx:configRequest", configure);
    document.removeEventListener("htmx:beforeSwap", arrive);
    document.removeEventListener("visibilitychange", visible);
  };
}
