// Runs before the first paint, so that a page in the chosen theme never flashes in the other one.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("infertrace.theme");
  } catch {
    // Storage may be forbidden; the system's theme is used then.
  }
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
})();
