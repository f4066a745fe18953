// The settings: options of every request, and the API key.

import { access, apiKey, setApiKey } from "./api.js";
import { byId } from "./dom.js";

/** Return a field's number within its bounds, or the field's default. */
function number(input) {
  const value = Number.isFinite(input.valueAsNumber) ? input.valueAsNumber : Number(input.defaultValue);
  return Math.min(Math.max(value, Number(input.min)), input.max === "" ? Infinity : Number(input.max));
}

/** Emits "key" when another API key was entered. */
export class Settings extends EventTarget {
  constructor() {
    super();
    this.details = byId("settings");
    this.key = byId("key");
    this.key.value = apiKey();
    this.wanted = byId("key-trouble");
    this.key.addEventListener("change", () => this.#entered());
    byId("settings-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.key.value.trim() !== apiKey()) this.#entered();
      else this.#close();
    });
    access.addEventListener("unauthorized", () => this.#askForKey());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.details.contains(document.activeElement)) this.#close();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!this.details.contains(event.target)) this.details.open = false;
    });
  }

  get system() {
    return byId("system").value.trim();
  }

  get temperature() {
    return number(byId("temperature"));
  }

  get tokens() {
    return Math.round(number(byId("tokens")));
  }

  /** Set the server's limit of an answer's length. */
  limit(tokens) {
    if (tokens) byId("tokens").max = tokens;
  }

  #entered() {
    setApiKey(this.key.value.trim());
    this.wanted.textContent = "";
    this.key.removeAttribute("aria-invalid");
    this.dispatchEvent(new Event("key"));
  }

  #askForKey() {
    this.details.open = true;
    this.wanted.textContent = apiKey() ? "The server refuses this key." : "The server wants an API key.";
    this.key.setAttribute("aria-invalid", "true");
    this.key.focus();
  }

  #close() {
    if (!this.details.open) return;
    this.details.open = false;
    this.details.querySelector("summary").focus();
  }
}
