// Blocking, in the head: the first paint already has the right theme.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const show = () => {
    const choice = localStorage.getItem("oc-theme");
    const dark = choice ? choice === "dark" : system.matches;
    document.documentElement.dataset.bsTheme = dark ? "dark" : "light";
  };
  show();
  system.addEventListener("change", show);
  addEventListener("storage", show);
  addEventListener("oc:theme", show);
})();
