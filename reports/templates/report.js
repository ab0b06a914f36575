// Comfort for those who have it: sorting, filtering, reading values out of plots, copying. All that it shows
// is on the page without it, too.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const made = (tag, fields = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), fields);
    element.append(...inside);
    return element;
  };
  const drawn = (tag, fields) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(fields)) element.setAttribute(name, value);
    return element;
  };

  // Sorting. A cell sorts by its data-v, else by its text; numbers before text, what is absent last.
  const compared = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.dataset.v ?? cell.textContent).trim();
    const number = Number(text.replace(/[,\u2212]/g, (sign) => (sign === "," ? "" : "-")));
    return { text, number, absent: text === "" };
  };
  const order = (a, b) =>
    Number.isNaN(a.number) || Number.isNaN(b.number) ? compared.compare(a.text, b.text) : a.number - b.number;
  const sort = (table, header) => {
    const column = header.cellIndex;
    const before = header.getAttribute("aria-sort");
    const first = header.classList.contains("number") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const way = before === first ? other : first;
    const sign = way === "ascending" ? 1 : -1;
    for (const th of table.tHead.rows[0].cells) th.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", way);
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [keyOf(row, column), row]);
    rows.sort(([a], [b]) => a.absent - b.absent || sign * order(a, b));
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of all("table[data-sort]")) {
    if (table.tBodies[0].rows.length < 2) continue;
    for (const header of table.tHead.rows[0].cells) {
      const button = made("button", { type: "button" });
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, header));
      header.append(button);
    }
  }

  // Filtering of tables with more than twelve rows.
  for (const table of all("table[data-filter]")) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length <= 12) continue;
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const box = made("input", { type: "search", autocomplete: "off", spellcheck: false });
    const count = made("output", {}, `${rows.length} rows`);
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, place) => {
        row.hidden = !words.every((word) => texts[place].includes(word));
        shown += !row.hidden;
      });
      count.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
    });
    const tools = made("div", { className: "tools" }, made("label", {}, "Filter", box), count);
    (table.closest(".frame") ?? table).before(tools);
  }

  // A slider is the keyboard's and the finger's way to what a pointer reads out of a plot.
  const slider = (label, most, value, choose) => {
    const range = made("input", { type: "range", min: 0, max: most, value });
    range.addEventListener("input", () => choose(Number(range.value)));
    return [made("label", {}, label, range), range];
  };
  const follow = (field, range, choose, place) => {
    field.addEventListener("pointermove", (event) => {
      const box = field.getBoundingClientRect();
      const at = place((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
      range.value = at;
      choose(at);
    });
  };

  for (const figure of all("[data-plot=distribution]")) {
    const field = figure.querySelector(".field");
    const { low, high, log } = field.dataset;
    const scaled = log === undefined ? Number : Math.log;
    const across = (ms) => (100 * (scaled(ms) - scaled(low))) / (scaled(high) - scaled(low));
    const rows = all("tbody tr", figure).map((row) => [row, row.dataset.values.split(" ")]);
    const paths = all(".curve", figure);
    const line = drawn("line", { class: "cursor", x2: "100%" });
    const dots = rows.map(([row]) => drawn("circle", { class: `at ${row.className}`, r: 4 }));
    field.append(line, ...dots);
    const choose = (share) => {
      for (const name of ["y1", "y2"]) line.setAttribute(name, `${100 - share}%`);
      figure.querySelector(".share").textContent = share;
      rows.forEach(([row, values], place) => {
        const x = across(Number(values[share]));
        row.cells[1].textContent = `${values[share]} ms`;
        dots[place].setAttribute("cx", `${x}%`);
        dots[place].setAttribute("cy", `${100 - share}%`);
        dots[place].setAttribute("visibility", x <= 100 ? "visible" : "hidden");
      });
    };
    const [label, range] = slider("Share of the calls", 100, 50, choose);
    figure.querySelector(".spread").append(made("div", { className: "tools" }, label));
    follow(field, range, choose, (_, y) => Math.round(100 * Math.min(1, Math.max(0, 1 - y))));
    rows.forEach(([row], place) => {
      row.addEventListener("pointerenter", () => {
        field.classList.add("dim");
        paths[place].classList.add("lit");
      });
      row.addEventListener("pointerleave", () => {
        field.classList.remove("dim");
        paths[place].classList.remove("lit");
      });
    });
    choose(50);
  }

  for (const figure of all("[data-plot=depth]")) {
    const field = figure.querySelector(".field");
    const points = all(".tensor", field);
    const places = points.map((point) => parseFloat(point.getAttribute("cx")));
    const ring = drawn("circle", { class: "chosen", r: 7 });
    const words = made("output");
    field.append(ring);
    const choose = (place) => {
      for (const name of ["cx", "cy"]) ring.setAttribute(name, points[place].getAttribute(name));
      words.textContent = points[place].dataset.text;
    };
    const start = Math.max(0, points.findIndex((point) => point.classList.contains("jumped")));
    const [label, range] = slider("Tensor", points.length - 1, start, choose);
    figure.querySelector(".plane").after(made("div", { className: "tools" }, label, words));
    follow(field, range, choose, (x) => {
      const distances = places.map((place) => Math.abs(place - 100 * x));
      return distances.indexOf(Math.min(...distances));
    });
    choose(start);
  }

  // Copying. Where the browser gives no clipboard the text is selected, so that one key copies it.
  for (const box of all("pre[data-copy]")) {
    const button = made("button", { type: "button", className: "copy" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(box.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(box);
        button.textContent = "Selected";
      }
    });
    box.after(button);
  }
})();
