// What pages can do beyond links and forms: the theme's switch, copying what is shown once, asking before what cannot be
// undone, and keeping the place where somebody was when a part of the page is replaced. Everything works without it.
(function () {
  "use strict";

  const THEMES = ["system", "light", "dark"];
  const STORED = "gateway-theme";
  const root = document.documentElement;

  // The theme

  function theme() {
    return root.dataset.theme || "system";
  }

  function useTheme(name) {
    if (name === "system") delete root.dataset.theme;
    else root.dataset.theme = name;
    try {
      if (name === "system") localStorage.removeItem(STORED);
      else localStorage.setItem(STORED, name);
    } catch {
      // Then it lasts as long as the page.
    }
  }

  function label(button) {
    button.hidden = false;
    button.textContent = "Theme: " + theme();
  }

  // What screen readers are told

  function say(words) {
    const place = document.getElementById("said");
    if (place) place.textContent = words;
  }

  // Copying

  async function copy(button) {
    const source = button.parentElement.querySelector("[data-copied]");
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
      say("Copied");
    } catch {
      // Without https there is no clipboard: what is selected can be copied by hand.
      getSelection().selectAllChildren(source);
      say("Selected, press Ctrl and C to copy");
    }
  }

  function prepare(part) {
    for (const button of part.querySelectorAll("[data-copy]")) button.hidden = false;
    for (const button of part.querySelectorAll("[data-theme-switch]")) label(button);
  }

  document.addEventListener("click", function (event) {
    const copying = event.target.closest("[data-copy]");
    if (copying) copy(copying);
    const switching = event.target.closest("[data-theme-switch]");
    if (switching) {
      useTheme(THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
      label(switching);
    }
  });

  // `<form data-confirm="Revoke this key?">`
  document.addEventListener("submit", function (event) {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);

  // Swapped parts: whoever was in a field is in the same field afterwards, and hears that something has changed.

  let left = null;

  document.addEventListener("htmx:beforeSwap", function (event) {
    const active = document.activeElement;
    const isInside = active && event.detail.target && event.detail.target.contains(active);
    const form = isInside && active.form;
    left = form ? { action: form.getAttribute("action"), at: [...form.elements].indexOf(active), name: active.name } : null;
  });

  document.addEventListener("htmx:afterSettle", function (event) {
    const asked = event.detail.requestConfig;
    if (!event.detail.target || event.detail.target.id !== "page" || !asked || !asked.triggeringEvent) return;
    if (left) {
      for (const form of document.forms) {
        if (form.getAttribute("action") !== left.action) continue;
        const named = left.name ? form.elements.namedItem(left.name) : null;
        const field = named && named.focus ? named : form.elements[left.at];
        if (field) field.focus({ preventScroll: true });
        break;
      }
    }
    left = null;
    const title = document.querySelector("#page h1");
    if (title) say(title.textContent + " has been updated");
  });

  document.addEventListener("htmx:load", function (event) {
    prepare(event.detail.elt);
  });

  prepare(document);
})();
