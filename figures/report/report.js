"use strict";
// Sorting, filtering and the theme. Without it the page can be read all the same.
(function () {
  const root = document.documentElement;
  const all = (selector, from) => Array.from((from || document).querySelectorAll(selector));

  // ---- Theme ----

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  // Some browsers keep no storage for files; the button then remembers nothing.
  const remember = (theme) => { try { localStorage.setItem("gsgd-theme", theme); } catch (error) { /* not kept */ } };
  const remembered = () => { try { return localStorage.getItem("gsgd-theme"); } catch (error) { return null; } };
  const say = () => button.setAttribute("aria-pressed", String(isDark()));
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    say();
  });
  dark.addEventListener("change", say);
  say();

  // ---- Sorting ----

  const key = (row, column, numeric) => {
    const cell = row.cells[column];
    const text = cell.dataset.value === undefined ? cell.textContent : cell.dataset.value;
    if (!numeric) return text.toLowerCase();
    const number = text === "inf" ? Infinity : text === "-inf" ? -Infinity : text === "" ? NaN : Number(text);
    return number;
  };
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    const first = Array.from(body.rows);
    for (const heading of all("th[data-sort]", table.tHead)) {
      const press = document.createElement("button");
      press.type = "button";
      press.append(...heading.childNodes);
      heading.append(press);
      press.addEventListener("click", () => {
        const up = heading.getAttribute("aria-sort") !== "ascending";
        const numeric = heading.dataset.sort === "number";
        const keyed = first.map((row, place) => ({ row, place, key: key(row, heading.cellIndex, numeric) }));
        keyed.sort((a, b) => {
          const noneA = Number.isNaN(a.key), noneB = Number.isNaN(b.key);
          // What has no value is last in either direction.
          if (noneA || noneB) return noneA - noneB || a.place - b.place;
          return (up ? 1 : -1) * compare(a.key, b.key) || a.place - b.place;
        });
        body.append(...keyed.map((entry) => entry.row));
        for (const other of all("th[aria-sort]", table.tHead)) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      });
    }
  }

  // ---- Filters ----

  const form = document.getElementById("filters");
  if (form) {
    const rows = Array.from(document.getElementById("checks").tBodies[0].rows);
    const texts = new Map(rows.map((row) => [row, `${row.cells[1].textContent} ${row.cells[2].textContent}`.toLowerCase()]));
    const text = document.getElementById("filter-text");
    const route = document.getElementById("filter-route");
    const boxes = all("input[name=status]", form);
    const shown = document.getElementById("shown");
    const apply = () => {
      const wanted = text.value.trim().toLowerCase();
      const statuses = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
      let count = 0;
      for (const row of rows) {
        row.hidden = !(
          statuses.has(row.dataset.status) &&
          (route.value === "" || row.dataset.route === route.value) &&
          texts.get(row).includes(wanted)
        );
        count += row.hidden ? 0 : 1;
      }
      shown.textContent = count === rows.length ? `All ${count} checks are shown.` : `${count} of ${rows.length} checks are shown.`;
    };
    const clear = () => {
      form.reset();
      apply();
    };
    form.hidden = false;
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(apply));
    for (const link of all("a[data-filter-status]")) {
      link.addEventListener("click", () => {
        form.reset();
        for (const box of boxes) box.checked = box.value === link.dataset.filterStatus;
        apply();
      });
    }
    // A link to a row that is filtered out shows it.
    const reveal = () => {
      const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      const row = target && target.closest("#checks tbody tr");
      if (row && row.hidden) {
        clear();
        row.scrollIntoView();
      }
    };
    addEventListener("hashchange", reveal);
    apply();
    reveal();
  }

  // ---- Contents: where the reader is ----

  const links = new Map(all(".bar nav a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id).setAttribute("aria-current", "location");
      }
    },
    { rootMargin: "-20% 0px -75% 0px" }
  );
  for (const id of links.keys()) watcher.observe(document.getElementById(id));

  // ---- Print: what is folded is printed, too, but for what every run of a comparison repeats ----

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open])").filter((details) => !details.closest(".runs"));
    for (const details of folded) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
  });
})();
