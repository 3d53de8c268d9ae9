// The run page: one node is selected everywhere, and only the side panel changes.

export function mount(page) {
  const shown = () => new URL(location.href).searchParams.get("node");

  function select(key) {
    for (const each of page.querySelectorAll("[data-node]")) {
      const on = each.dataset.node === key;
      if (each.localName === "tr") each.classList.toggle("oc-selected", on);
      else if (on) each.setAttribute("aria-current", "true");
      else each.removeAttribute("aria-current");
    }
  }

  const click = (event) => {
    const target = event.target.closest("[data-node], [data-select]");
    if (!target || event.ctrlKey || event.metaKey) return;
    const key = target.dataset.node ?? target.dataset.select;
    select(key);
    if (event.target.closest("a[hx-get]")) return; // htmx does it
    event.preventDefault();
    for (const link of page.querySelectorAll("a[hx-get][data-select]")) {
      if (link.dataset.select === key) link.click();
    }
  };
  // The refresh keeps the selection that stands in the address.
  const configure = ({ detail }) => {
    if (detail.elt.id === "oc-live" && shown()) detail.parameters.node = shown();
  };
  const visible = () => {
    if (!document.hidden) document.body.dispatchEvent(new Event("oc:state"));
  };
  page.addEventListener("click", click);
  document.addEventListener("htmx:configRequest", configure);
  document.addEventListener("visibilitychange", visible);
  return () => {
    document.removeEventListener("htmx:configRequest", configure);
    document.removeEventListener("visibilitychange", visible);
  };
}
