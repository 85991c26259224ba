// What /docs can do beyond links: search in an index that is fetched when somebody begins to search, and copying of code.
// Without it the search is a form that the gateway answers.
(function () {
  "use strict";

  const HITS_MAX = 12;
  const field = document.querySelector("[data-docs-search]");
  const place = document.getElementById("docs-hits");
  const said = document.getElementById("said");
  let index = null;

  // Searching

  async function load() {
    if (!index) {
      index = fetch("/docs/search.json").then(function (answer) {
        return answer.ok ? answer.json() : [];
      }).catch(function () {
        index = null;
        return [];
      });
    }
    return index;
  }

  function score(entry, words) {
    const page = entry[1].toLowerCase();
    const title = entry[2].toLowerCase();
    const text = entry[3].toLowerCase();
    let sum = 0;
    for (const word of words) {
      const inTitle = title.includes(word);
      const inPage = page.includes(word);
      if (!inTitle && !inPage && !text.includes(word)) return 0;
      sum += 1 + (inTitle ? 10 : 0) + (inPage ? 4 : 0);
    }
    return sum;
  }

  function around(text, word) {
    const at = Math.max(text.toLowerCase().indexOf(word), 0);
    const before = Math.max(at - 40, 0);
    const space = before ? text.indexOf(" ", before) : -1;
    const begin = space >= 0 && space < at ? space + 1 : before; // words are not cut
    const after = text.length > at + 120 ? text.lastIndexOf(" ", at + 120) : text.length;
    const end = after > at ? after : at + 120;
    return (begin ? "… " : "") + text.slice(begin, end) + (end < text.length ? " …" : "");
  }

  function line(entry, words) {
    const link = document.createElement("a");
    link.href = entry[0];
    const title = document.createElement("strong");
    title.textContent = entry[2];
    const page = document.createElement("span");
    page.textContent = entry[1];
    const text = document.createElement("p");
    text.textContent = around(entry[3], words[0]);
    link.append(title, page, text);
    return link;
  }

  async function search() {
    const asked = field.value;
    const words = asked.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) {
      place.hidden = true;
      return;
    }
    const entries = await load();
    if (field.value !== asked) return; // somebody typed on
    const hits = entries
      .map(function (entry) { return [score(entry, words), entry]; })
      .filter(function (pair) { return pair[0] > 0; })
      .sort(function (one, other) { return other[0] - one[0]; })
      .slice(0, HITS_MAX);
    place.replaceChildren(...hits.map(function (pair) { return line(pair[1], words); }));
    if (!hits.length) place.textContent = "Nothing has all of these words.";
    place.hidden = false;
    said.textContent = hits.length + " found";
  }

  if (field && place) {
    field.addEventListener("focus", load, { once: true });
    field.addEventListener("input", search);
    document.addEventListener("keydown", function (event) {
      if (event.key === "Escape") place.hidden = true;
      if (event.key === "/" && !event.target.closest("input, textarea, select")) {
        event.preventDefault();
        field.focus();
      }
    });
    document.addEventListener("click", function (event) {
      if (!event.target.closest(".docs-search") || event.target.closest("#docs-hits a")) place.hidden = true;
    });
  }

  // Copying: of a block with commands these alone, without what they print

  async function copy(button) {
    const block = button.parentElement.querySelector("code");
    const commands = [...block.querySelectorAll(".command")].map(function (each) { return each.textContent; });
    try {
      await navigator.clipboard.writeText(commands.length ? commands.join("\n") : block.textContent);
      button.textContent = "Copied";
      said.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(block); // without https there is no clipboard
      said.textContent = "Selected, press Ctrl and C to copy";
    }
  }

  for (const button of document.querySelectorAll("[data-copy-code]")) {
    button.hidden = false;
    button.addEventListener("click", function () { copy(button); });
  }
})();
