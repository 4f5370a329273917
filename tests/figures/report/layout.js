// What of a page's layout is wrong at the width it has: a list of sentences, empty where nothing is.
// Called with the greatest height of a picture in CSS pixels.
(tallest) => {
  const width = document.documentElement.clientWidth;
  const slack = 1, touch = 2;
  const name = (element) =>
    `<${element.tagName.toLowerCase()}${element.id ? "#" + element.id : ""}> "${(element.getAttribute("aria-label") || element.textContent).trim().slice(0, 40)}"`;

  // The part of a box that shows: what scrolls or hides its contents cuts it off.
  const clips = new Map();
  const clip = (element) => {
    if (!element || element === document.body || element === document.documentElement) return null;
    if (clips.has(element)) return clips.get(element);
    const outer = clip(element.parentElement);
    const style = getComputedStyle(element);
    let own = outer;
    if (style.overflowX !== "visible" || style.overflowY !== "visible") {
      const box = element.getBoundingClientRect();
      own = outer
        ? { left: Math.max(outer.left, box.left), right: Math.min(outer.right, box.right), top: Math.max(outer.top, box.top), bottom: Math.min(outer.bottom, box.bottom) }
        : box;
    }
    clips.set(element, own);
    return own;
  };
  const seen = (box, element) => {
    const around = clip(element);
    const left = Math.max(box.left, around ? around.left : -Infinity), right = Math.min(box.right, around ? around.right : Infinity);
    const top = Math.max(box.top, around ? around.top : -Infinity), bottom = Math.min(box.bottom, around ? around.bottom : Infinity);
    // What lies left of the page is put there to be hidden: nothing scrolls to it.
    return right - left < touch || bottom - top < touch || right <= 0 ? null : { left, right, top, bottom };
  };
  const shown = (element) =>
    element.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true }) && getComputedStyle(element).clipPath === "none";

  const wrong = [];
  if (document.scrollingElement.scrollWidth > width + slack)
    wrong.push(`the page is ${document.scrollingElement.scrollWidth} wide, the window ${width}`);
  const lines = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest("svg") !== null && element.tagName !== "svg") continue;
    if (["SCRIPT", "STYLE"].includes(element.tagName) || !shown(element)) continue;
    const box = seen(element.getBoundingClientRect(), element.parentElement);
    if (box && (box.right > width + slack || box.left < -slack)) wrong.push(`${name(element)} reaches from ${box.left} to ${box.right}`);
    if (["svg", "IMG"].includes(element.tagName) && element.getBoundingClientRect().height > tallest)
      wrong.push(`a picture of ${element.getBoundingClientRect().height}: ${element.getAttribute("aria-label") || element.getAttribute("alt")}`);
    for (const node of element.childNodes) {
      if (node.nodeType !== Node.TEXT_NODE || !node.textContent.trim()) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      for (const rectangle of range.getClientRects()) {
        const line = seen(rectangle, element);
        if (line) lines.push({ ...line, element });
      }
    }
  }
  // Lines of text by their upper ends: one that begins below where another ends lies clear of it.
  lines.sort((a, b) => a.top - b.top);
  for (let i = 0; i < lines.length; i += 1) {
    for (let j = i + 1; j < lines.length && lines[j].top < lines[i].bottom - touch; j += 1) {
      const [a, b] = [lines[i], lines[j]];
      if (a.element.contains(b.element) || b.element.contains(a.element)) continue;
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > touch && Math.min(a.bottom, b.bottom) - b.top > touch)
        wrong.push(`${name(a.element)} and ${name(b.element)} overlap`);
    }
  }
  return { wrong, lines: lines.length };
}
