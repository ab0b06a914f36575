// Texts whose contrast with what lies behind them is below 4.5 (WCAG 2.2, 1.4.3), as sentences.
const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
const parts = (text) => {
  const n = text.match(/[\d.]+/g).map(Number);
  return { rgb: n.slice(0, 3), alpha: n[3] ?? 1 };
};
const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const { rgb, alpha } = parts(getComputedStyle(e).backgroundColor);
    if (alpha > 0.99) return rgb;
  }
  return getComputedStyle(document.documentElement).colorScheme.includes("dark") &&
    matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
};
const poor = [];
const texts = "h1, h2, h3, h4, p, td, th, dt, dd, li, small, summary, a, code, label, caption, figcaption";
for (const e of document.querySelectorAll(texts)) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || e.closest("svg, .unseen, .skip") || !e.checkVisibility()) continue;
  const [a, b] = [light(parts(getComputedStyle(e).color).rgb), light(behind(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push(`${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return [...new Set(poor)];
