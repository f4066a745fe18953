// A live session with the server: WS /v1/video/realtime.

import { apiKey } from "./api.js";

const LONGEST_SIDE = 1280; // pixels of a frame that is sent

/** Emits the server's messages by their type, with the message as `detail`; and "over" with a text. */
export class LiveSession extends EventTarget {
  #socket;
  #number = 0;
  #last = Promise.resolve(); // the input before
  #settle = null; // of the input that the server has not accepted yet
  #error = "";
  #ended = false;

  constructor(prompt) {
    super();
    const key = apiKey();
    const offered = key ? [`mossvl-key.${coded(key)}`] : [];
    const url = new URL("v1/video/realtime", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.#socket = new WebSocket(url, ["mossvl", ...offered]);
    this.#socket.addEventListener("message", ({ data }) => this.#hear(JSON.parse(data), prompt));
    this.#socket.addEventListener("close", ({ code }) => this.#over(code));
  }

  /** Give a frame → whether the server has taken it. */
  frame(blob, timestamp) {
    return this.#give("input.frame", { timestamp, mime_type: blob.type }, blob);
  }

  ask(prompt) {
    return this.#give("input.prompt", { prompt });
  }

  interrupt() {
    this.#send({ type: "response.interrupt" });
  }

  end() {
    this.#ended = true;
    if (this.#socket.readyState === WebSocket.OPEN) this.#send({ type: "session.abort" });
    else this.#socket.close();
  }

  /** Give inputs one after the other: each waits until the one before is accepted. */
  #give(type, fields, blob) {
    const given = this.#last.then(
      () =>
        new Promise((settle) => {
          if (this.#socket.readyState !== WebSocket.OPEN) return settle(false);
          this.#settle = { settle, blob };
          this.#send({ type, seq_no: this.#number, ...fields });
        }),
    );
    this.#last = given;
    return given;
  }

  #send(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #hear(message, prompt) {
    if (message.type === "session.created") {
      this.#send({ type: "session.configure", prompt, max_tokens_per_turn: 12, input_queue_capacity: 2 });
    } else if (message.type === "input.frame.ready") {
      this.#socket.send(this.#settle.blob);
    } else if (message.type.endsWith(".accepted")) {
      this.#number += 1;
      this.#settled(true);
    } else if (message.type === "error") {
      this.#error = message.message;
      this.#settled(false);
    }
    this.dispatchEvent(new CustomEvent(message.type, { detail: message }));
  }

  #settled(taken) {
    this.#settle?.settle(taken);
    this.#settle = null;
  }

  #over(code) {
    this.#settled(false);
    const refused = "The server refuses the connection. If it wants an API key, enter it in the settings of Ask.";
    const why = this.#ended ? "" : this.#error || (code === 1006 ? refused : "The server has ended the session.");
    this.dispatchEvent(new CustomEvent("over", { detail: why }));
  }
}

/** Draw what a video shows → a JPEG. */
export function pictureOf(video) {
  const { videoWidth: width, videoHeight: height } = video;
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.85));
}

/** A text in base64 as of URLs. */
function coded(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
