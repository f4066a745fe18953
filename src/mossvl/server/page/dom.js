// DOM elements, built without parsing markup: text from files, users or the model stays text.

export const byId = (id) => document.getElementById(id);

/** Make an element; properties with a dash, and `role`, become attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Make an icon from a symbol at the end of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Announce a text to screen readers, after their current announcement. */
export function announce(text) {
  const status = byId("status");
  status.textContent = "";
  setTimeout(() => (status.textContent = text), 50);
}

/** Make an error message with a Retry button, if a retry may succeed, and a Remove button. */
export function problem(text, again = null, wait = 0, remove = null) {
  const box = element("p", { className: "problem", role: "alert" }, element("span", { textContent: text }));
  if (again) box.append(againButton(again, wait));
  if (remove) {
    const button = element("button", { type: "button", className: "plain", textContent: "Remove" });
    button.addEventListener("click", remove);
    box.append(button);
  }
  return box;
}

function againButton(again, wait) {
  const button = element("button", { type: "button", className: "plain", textContent: "Try again" });
  button.addEventListener("click", again);
  const until = Date.now() + 1000 * wait;
  const count = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left > 0) setTimeout(count, 250);
  };
  count();
  return button;
}

/** 1234567 → "1,234,567". */
export const count = (number) => number.toLocaleString("en");

/** 1 and "frame" → "1 frame". */
export const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** 3870 → "3.9 kB". */
export function bytes(number) {
  const power = Math.min(3, Math.max(1, Math.floor(Math.log10(number) / 3)));
  return `${(number / 1000 ** power).toFixed(1)} ${["kB", "MB", "GB"][power - 1]}`;
}

export const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
