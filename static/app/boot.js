// What every page needs beside htmx: modules mounted where the HTML asks for them, the
// dialog, the theme, messages. One delegated listener each; nothing here knows a page.

const modules = {
  log: () => import("./log.js"),
  run: () => import("./run.js"),
  form: () => import("./form.js"),
  points: () => import("./points.js"),
};
const mounted = new Map(); // element -> what unmounts it

async function scan() {
  for (const [element, unmount] of mounted) {
    if (!element.isConnected) {
      unmount?.();
      mounted.delete(element);
    }
  }
  for (const element of document.querySelectorAll("[data-module]")) {
    if (mounted.has(element)) continue;
    mounted.set(element, null);
    const { mount } = await modules[element.dataset.module]();
    mounted.set(element, mount(element));
  }
}

// --- messages

const toasts = document.getElementById("oc-toasts");

export function say(text, level = "info") {
  const close = document.createElement("button");
  close.type = "button";
  close.className = "oc-btn oc-btn-ghost oc-btn-small oc-btn-icon";
  close.dataset.ocDismiss = "";
  close.setAttribute("aria-label", "Dismiss");
  close.textContent = "×";
  const words = document.createElement("span");
  words.textContent = text.charAt(0).toUpperCase() + text.slice(1);
  const item = document.createElement("li");
  item.className = `oc-toast oc-toast-${level}`;
  item.append(words, close);
  toasts.append(item);
  leave(item);
}

// A success goes by itself; an error stays until it was read.
function leave(item) {
  if (item.classList.contains("oc-toast-error")) return;
  setTimeout(() => item.remove(), 8000);
}

for (const item of toasts.children) leave(item);

document.addEventListener("htmx:responseError", ({ detail: { xhr, requestConfig } }) => {
  const told = decodeURIComponent(xhr.getResponseHeader("X-Error") ?? "");
  if (requestConfig.verb === "get" && requestConfig.triggeringEvent?.type !== "click") return;
  say(told || `The server answered ${xhr.status}. Nothing was changed.`, "error");
});
document.addEventListener("htmx:sendError", ({ detail: { requestConfig } }) => {
  if (requestConfig.verb === "get") return; // polls try again
  say("The server cannot be reached. Nothing was changed; try again.", "error");
});

// A poll that nobody sees asks nothing.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.detail.elt.hasAttribute("data-oc-poll")) event.preventDefault();
});

// --- the dialog

const dialog = document.getElementById("oc-dialog");

document.addEventListener("htmx:afterSwap", ({ detail }) => {
  if (dialog && detail.target === dialog && dialog.hasChildNodes() && !dialog.open) {
    dialog.showModal();
  }
});
dialog?.addEventListener("close", () => dialog.replaceChildren());

document.addEventListener("click", ({ target }) => {
  if (target === dialog) dialog.close(); // the backdrop
  const button = target.closest("button, a");
  if (!button) return;
  if ("ocClose" in button.dataset) dialog.open ? dialog.close() : history.back();
  if ("ocDismiss" in button.dataset) button.closest(".oc-toast").remove();
  if ("ocTheme" in button.dataset) turnTheme();
  if ("ocCopy" in button.dataset) {
    navigator.clipboard.writeText(button.dataset.ocCopy).then(() => say("Copied."));
  }
});

// An unavailable button stays focusable and says why; it does nothing.
document.addEventListener(
  "click",
  (event) => {
    if (event.target.closest?.('[aria-disabled="true"]')) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  },
  true,
);

// --- theme: as the system, light, dark

const themes = [null, "light", "dark"];
const themeNames = ["Theme: system", "Theme: light", "Theme: dark"];

function nameTheme() {
  const at = themes.indexOf(localStorage.getItem("oc-theme"));
  for (const place of document.querySelectorAll("[data-oc-theme-name]")) {
    place.textContent = themeNames[at];
  }
}

function turnTheme() {
  const next = themes[(themes.indexOf(localStorage.getItem("oc-theme")) + 1) % themes.length];
  if (next) localStorage.setItem("oc-theme", next);
  else localStorage.removeItem("oc-theme");
  dispatchEvent(new Event("oc:theme"));
  nameTheme();
}

nameTheme();
scan();
document.addEventListener("htmx:afterSettle", scan);
document.addEventListener("htmx:historyRestore", scan);
