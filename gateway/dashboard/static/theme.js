// Runs before anything is painted: a page must not flash in the other theme.
(function () {
  "use strict";
  try {
    const chosen = localStorage.getItem("gateway-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage may be forbidden; then the system's theme it is.
  }
  document.documentElement.classList.add("scripted");
})();
