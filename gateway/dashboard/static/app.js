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

  // Scroll regions are stops for the Tab key, so that the arrows reach what is out of sight: those in which something is.

  const watched = new ResizeObserver((seen) => {
    for (const place of new Set(seen.map((entry) => entry.target.closest(".scroll, pre")))) if (place) stopAt(place);
  });

  function stopAt(place) {
    if (place.scrollWidth > place.clientWidth + 1 || place.scrollHeight > place.clientHeight + 1) place.tabIndex = 0;
    else place.removeAttribute("tabindex");
  }

  // On narrow screens a row of a table stands as lines of its own, each beside its column's heading. What such a table is
  // has then to be said in so many words: browsers go by how it is laid out.

  const ROLES = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TFOOT: "rowgroup", TR: "row", TD: "cell" };

  function labelCells(table) {
    if (table.classList.contains("labelled") || table.classList.contains("pivot") || !table.tHead) return;
    const headings = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.label || cell.textContent.trim());
    for (const part of table.querySelectorAll("thead, tbody, tfoot, tr, td")) part.setAttribute("role", ROLES[part.tagName]);
    for (const cell of table.querySelectorAll("th")) cell.setAttribute("role", cell.scope === "row" ? "rowheader" : "columnheader");
    for (const row of [...table.tBodies, table.tFoot].flatMap((part) => (part ? [...part.rows] : []))) {
      let column = 0;
      for (const cell of row.cells) {
        cell.dataset.label = headings[column] || "";
        column += cell.colSpan;
      }
    }
    table.setAttribute("role", "table");
    table.classList.add("labelled");
  }

  function prepare(part) {
    for (const place of part.querySelectorAll(".scroll[tabindex], pre[tabindex]")) {
      watched.observe(place);
      if (place.firstElementChild) watched.observe(place.firstElementChild);
    }
    for (const table of part.querySelectorAll("table.list")) labelCells(table);
    for (const set of part.querySelectorAll("fieldset[data-scripted]")) set.disabled = false;
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

  // Fields that were left empty say nothing, and do not belong into an address.

  document.addEventListener("htmx:configRequest", function (event) {
    const asked = event.detail;
    if (asked.verb !== "get" || !event.target.matches("form.filters")) return;
    for (const [name, value] of [...asked.formData]) if (value === "") asked.formData.delete(name);
  });

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

  // A form that is on its way is not sent again: the second answer would come in place of the first, and of a new key only
  // the first has the text.

  const SENT_FOR_MS = 30000;
  let sent = new WeakMap();

  document.addEventListener("submit", function (event) {
    if (event.defaultPrevented || event.target.method !== "post") return;
    if (performance.now() - (sent.get(event.target) ?? -Infinity) < SENT_FOR_MS) event.preventDefault();
    else sent.set(event.target, performance.now());
  });

  window.addEventListener("pageshow", function () {
    sent = new WeakMap();
  });

  // Days of one's own are a period, and a period that has a name has its own days.

  document.addEventListener("input", function (event) {
    const form = event.target.form;
    const period = form && form.elements.namedItem("period");
    if (!period || !period.querySelector || !period.querySelector("option[value=custom]")) return;
    if (event.target.type === "date" && event.target.value) period.value = "custom";
    if (event.target === period && period.value !== "custom") {
      for (const field of form.querySelectorAll("input[type=date]")) field.value = "";
    }
  });

  // Parts that are asked for again and again: only while somebody looks, and as nothing that keeps a session from ending.
  // Where that fails, the page says how old it is.

  let updatedAt = new Date();
  let isSignedOut = false;

  function isPoll(config) {
    return Boolean(config && config.elt && config.elt.matches("[data-poll]"));
  }

  function sayStale() {
    const place = document.getElementById("stale");
    if (!place || !place.hidden) return;
    const since = updatedAt.toISOString().slice(11, 19) + " UTC";
    if (isSignedOut) {
      const link = document.createElement("a");
      link.href = "/dashboard/sign-in?next=" + encodeURIComponent(location.pathname + location.search);
      link.textContent = "Sign in again";
      place.replaceChildren("The session is over: this is how things stood at " + since + ". ", link);
    } else {
      place.textContent = "The gateway does not answer: this is how things stood at " + since + ". The page goes on asking.";
    }
    place.hidden = false;
  }

  document.addEventListener("htmx:configRequest", function (event) {
    if (!event.detail.elt.matches("[data-poll]")) return;
    if (document.hidden || isSignedOut) event.preventDefault();
    else event.detail.headers["X-Gateway-Poll"] = "1";
  });

  document.addEventListener("htmx:beforeSwap", function (event) {
    if (!isPoll(event.detail.requestConfig)) return;
    const place = document.getElementById("stale");
    if (event.detail.xhr.status < 400) {
      updatedAt = new Date();
      if (place) place.hidden = true;
      return;
    }
    event.detail.shouldSwap = false;
    isSignedOut = event.detail.xhr.status === 401;
    if (isSignedOut && place) place.hidden = true;
    sayStale();
  });

  for (const failed of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(failed, function (event) {
      if (isPoll(event.detail.requestConfig)) sayStale();
    });
  }

  document.addEventListener("visibilitychange", function () {
    if (document.hidden) return;
    for (const part of document.querySelectorAll("[data-poll]")) htmx.trigger(part, "look");
  });

  document.addEventListener("htmx:load", function (event) {
    prepare(event.detail.elt);
  });

  prepare(document);
})();
