// A form that somebody types in: Tab in code, Ctrl+S, a warning before typed text is lost,
// and the node's name and kind from the path that was chosen.

export function mount(form) {
  let dirty = false;
  const own = () => [...form.elements];

  const warn = (event) => {
    if (dirty) event.preventDefault();
  };
  const touch = ({ target }) => {
    if (own().includes(target) && target.type !== "search") dirty = true;
  };
  const keys = (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s") {
      event.preventDefault();
      form.requestSubmit(document.querySelector(`[form="${form.id}"][value="stay"]`));
    }
  };
  const indent = (event) => {
    const area = event.target;
    if (event.key === "Escape") area.dataset.leaving = "1"; // then Tab leaves, as anywhere
    else if (event.key !== "Tab" || event.shiftKey || area.dataset.leaving) {
      delete area.dataset.leaving;
    } else {
      event.preventDefault();
      area.setRangeText("    ", area.selectionStart, area.selectionEnd, "end");
      dirty = true;
    }
  };
  const sent = () => {
    dirty = false;
  };

  document.addEventListener("input", touch);
  addEventListener("beforeunload", warn);
  form.addEventListener("submit", sent);
  if (form.id === "oc-draft") document.addEventListener("keydown", keys);
  for (const area of form.querySelectorAll("textarea.oc-code")) {
    area.addEventListener("keydown", indent);
  }
  const path = form.elements.job_path;
  if (path) nameAfter(form, path);

  return () => {
    document.removeEventListener("input", touch);
    removeEventListener("beforeunload", warn);
    document.removeEventListener("keydown", keys);
  };
}

function nameAfter(form, path) {
  const name = form.elements.name;
  const kind = form.querySelector("[data-kind-of]");
  const taken = new Set(JSON.parse(form.dataset.taken || "[]"));
  let filled = name.value ? null : "";

  const follow = () => {
    const option = [...path.list.options].find((each) => each.value === path.value);
    kind.value = option ? option.dataset.kind : "";
    if (filled === null || name.value !== filled || !option) return;
    const wanted = path.value.split("/").at(-1).replace(/[^\p{L}\p{N}_.-]/gu, "_");
    let free = wanted;
    for (let n = 2; taken.has(free); n += 1) free = `${wanted}_${n}`;
    name.value = filled = free;
  };
  path.addEventListener("input", follow);
  follow();
}
