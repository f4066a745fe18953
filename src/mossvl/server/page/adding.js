// Ways to add media: file picker, drag and drop, paste, URL, or a sample of the server.

import { byId, element, problem } from "./dom.js";

export class Adding {
  constructor(media, { onAdded, onSample }) {
    Object.assign(this, { media, onAdded, onSample });
    this.section = byId("add");
    this.trouble = byId("add-trouble");
    this.url = byId("url");
    this.urlTrouble = byId("url-trouble");
    this.samples = byId("samples");
    const picker = byId("files");
    byId("pick").addEventListener("click", () => picker.click());
    picker.addEventListener("change", () => {
      this.addFiles(picker.files);
      picker.value = "";
    });
    byId("url-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.addUrl(this.url.value.trim());
    });
    this.url.addEventListener("input", () => this.#urlProblem(null));
    this.#listenForDrops();
    document.addEventListener("paste", (event) => this.#paste(event));
    media.addEventListener("change", () => this.draw());
  }

  draw() {
    const { all } = this.media;
    this.section.classList.toggle("first", all.length === 0);
    byId("pick").textContent = all.length ? "Add files" : "Choose files";
    byId("samples-title").textContent = all.length ? "Another sample" : "Or begin with a sample";
    this.samples.hidden = this.samples.dataset.offered === undefined || all.some((medium) => medium.sample === null);
    for (const button of this.samples.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", all.some((medium) => medium.sample?.url === button.value));
    }
  }

  /** Add files, and return whether all were added. */
  addFiles(files) {
    this.trouble.replaceChildren();
    for (const file of files) {
      try {
        this.media.addFile(file);
      } catch (error) {
        this.trouble.replaceChildren(problem(error.message));
        return false;
      }
    }
    if (files.length) this.onAdded();
    return true;
  }

  async addUrl(url) {
    this.#urlProblem(null);
    this.section.setAttribute("aria-busy", "true");
    byId("url-add").disabled = true;
    try {
      await this.media.addUrl(url);
      this.url.value = "";
      this.onAdded();
    } catch (error) {
      this.#urlProblem(error);
      this.url.focus();
    } finally {
      this.section.removeAttribute("aria-busy");
      byId("url-add").disabled = false;
    }
  }

  /** Show buttons for the server's sample clips: [{name, url, questions}]. */
  offer(samples) {
    if (!samples?.length) return;
    this.samples.dataset.offered = "";
    byId("sample-buttons").replaceChildren(...samples.map((sample) => this.#sampleButton(sample)));
    this.draw();
  }

  #sampleButton(sample) {
    const picture = element("video", { src: `${sample.url}#t=2.5`, muted: true, preload: "metadata", tabIndex: -1 });
    picture.setAttribute("aria-hidden", "true");
    const name = element("span", { textContent: sample.name });
    const button = element("button", { type: "button", value: sample.url }, picture, name);
    button.addEventListener("click", () => this.#takeSample(sample));
    return button;
  }

  async #takeSample(sample) {
    this.trouble.replaceChildren();
    try {
      const response = await fetch(sample.url);
      if (!response.ok) throw new Error(`the server answers with ${response.status}`);
      const name = sample.url.split("/").pop();
      const file = new File([await response.blob()], name, { type: "video/mp4" });
      this.onSample();
      this.media.addFile(file, sample);
      this.onAdded();
    } catch (error) {
      this.trouble.replaceChildren(problem(`The sample cannot be loaded: ${error.message}`));
    }
  }

  #urlProblem(error) {
    this.url.toggleAttribute("aria-invalid", error !== null);
    const again = error?.retryAfter ? () => this.addUrl(this.url.value.trim()) : null;
    this.urlTrouble.replaceChildren(...(error ? [problem(error.message, again, error.retryAfter)] : []));
  }

  /** Accept dropped files and links anywhere on the page. */
  #listenForDrops() {
    let inside = 0;
    let own = false; // an element of this page is being dragged
    const taken = (type) => type === "Files" || type === "text/uri-list";
    const carries = (event) => !own && Boolean(event.dataTransfer?.types.some(taken));
    const mark = (change) => {
      inside = Math.max(0, inside + change);
      document.body.classList.toggle("dropping", inside > 0);
    };
    document.addEventListener("dragenter", (event) => carries(event) && mark(1));
    document.addEventListener("dragleave", (event) => carries(event) && mark(-1));
    document.addEventListener("dragover", (event) => carries(event) && event.preventDefault());
    document.addEventListener("drop", (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      mark(-Infinity);
      const { files } = event.dataTransfer;
      const urls = event.dataTransfer.getData("text/uri-list").split(/\r?\n/);
      if (files.length) this.addFiles([...files]);
      else this.#addLink(urls.find((url) => url && !url.startsWith("#")) ?? "");
    });
    document.addEventListener("dragstart", () => (own = true));
    document.addEventListener("dragend", () => (own = false));
  }

  #addLink(url) {
    this.url.value = url;
    this.addUrl(url);
  }

  /** Accept pasted files anywhere, and pasted URLs outside of text fields. */
  #paste(event) {
    const { files } = event.clipboardData;
    if (files.length) {
      event.preventDefault();
      this.addFiles([...files]);
      return;
    }
    const text = event.clipboardData.getData("text").trim();
    if (!event.target.closest("input, textarea") && /^https?:\/\/\S+$/.test(text)) {
      this.#addLink(text);
    }
  }
}
