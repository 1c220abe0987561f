"use strict";
(() => {
  const all = (where, what) => [...where.querySelectorAll(what)];
  const make = (svg, tag, style) => {
    const node = document.createElementNS(svg.namespaceURI, tag);
    node.setAttribute("class", style);
    return svg.appendChild(node);
  };

  document.documentElement.classList.add("scripted");
  const buttons = all(document, "nav button");
  buttons.forEach(button => button.addEventListener("click", () => {
    const wanted = button.dataset.show;
    buttons.forEach(other => other.setAttribute("aria-pressed", String(other === button)));
    all(document, "[data-rule]").forEach(part => { part.hidden = wanted !== "" && part.dataset.rule !== wanted; });
  }));

  all(document, "svg.hover[data-n]").forEach(svg => {
    const [n, before, after] = ["n", "a", "b"].map(key => svg.dataset[key].split(",").map(Number));
    const from = Number(svg.dataset.from), to = Number(svg.dataset.to);
    const line = make(svg, "line", "cursor"), words = make(svg, "text", "readout");
    const show = value => (value > 0 ? "+" : "") + value.toFixed(1).replace("-", "\u2212");
    const leave = () => [line, words].forEach(node => node.setAttribute("visibility", "hidden"));
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect();
      const share = ((event.clientX - box.left) * svg.viewBox.baseVal.width / box.width - from) / (to - from);
      if (share < -0.02 || share > 1.05) { leave(); return; }
      const place = Math.max(0, Math.min(n.length - 1, Math.round(share * (n.length - 1))));
      const x = from + (to - from) * n[place] / n[n.length - 1];
      for (const [key, value] of Object.entries({ x1: x, x2: x, y1: 28, y2: 192 })) line.setAttribute(key, value);
      words.textContent = `after ${n[place]}: ${show(before[place])} without, ${show(after[place])} with`;
      words.setAttribute("x", svg.viewBox.baseVal.width - 12);
      words.setAttribute("y", 16);
      words.setAttribute("text-anchor", "end");
      [line, words].forEach(node => node.setAttribute("visibility", "visible"));
    });
    svg.addEventListener("pointerleave", leave);
    leave();
  });

  const seen = all(document, "svg[data-chart]").filter(svg => svg.getBoundingClientRect().width > 0);
  seen.forEach(svg => {
    const page = svg.getBoundingClientRect();
    const marks = all(svg, ".mark").map(mark => mark.getBBox()).filter(box => box.width > 0 || box.height > 0);
    const dots = all(svg, ".dots").length;
    svg.dataset.drawn = page.height > 0 && (marks.length > 0 || dots > 0) ? `${Math.round(page.width)}x${Math.round(page.height)}` : "no";
  });
  document.body.dataset.charts = seen.length;
  document.body.dataset.drawn = seen.filter(svg => svg.dataset.drawn !== "no").length;
})();
