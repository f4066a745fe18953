// Client of the server's API. Every failure becomes an ApiError whose message can be shown.

const KEY = "mossvl-api-key";
const POLL = 1000; // milliseconds

let waiting = 0; // calls that wait until the model is loaded

/** Emits "unauthorized" when the server refuses or requires an API key; "loading" and "loaded" for its model. */
export const access = new EventTarget();

export class ApiError extends Error {
  constructor(message, { status = 0, code = null, retryAfter = 0 } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** Whether a retry may succeed. */
  get passing() {
    return ![400, 413, 415, 422].includes(this.status);
  }
}

export const apiKey = () => sessionStorage.getItem(KEY) ?? "";

export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** Fetch the description of the served model. */
export async function model() {
  const { data } = await (await request("v1/models")).json();
  return data[0];
}

/** Fetch a preview of a medium: {kind, frames, vision_tokens, …}. `thumbnails`: longest side in pixels. */
export async function frames(part, thumbnails, signal) {
  return (await request("v1/media/frames", { body: { part, thumbnails }, signal })).json();
}

export async function removeFile(id) {
  await request(`v1/files/${encodeURIComponent(id)}`, { method: "DELETE" });
}

/** Upload a file → its id. `onProgress` receives the fraction that has been sent, 0 to 1. */
export function upload(file, onProgress, signal) {
  return onceLoaded(() => send(file, onProgress, signal), signal);
}

function send(file, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", "v1/files");
    for (const [name, value] of Object.entries(headers())) sending.setRequestHeader(name, value);
    sending.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    sending.addEventListener("load", () => {
      if (sending.status < 300) resolve(JSON.parse(sending.responseText).id);
      else reject(failure(sending.status, sending.responseText, sending.getResponseHeader("Retry-After")));
    });
    sending.addEventListener("error", () => reject(unreachable()));
    sending.addEventListener("abort", () => reject(aborted()));
    signal.addEventListener("abort", () => sending.abort());
    const form = new FormData();
    form.append("purpose", "vision");
    form.append("file", file, file.name);
    sending.send(form);
  });
}

/** Request an answer, and yield its chunks as they arrive. */
export async function* answer(question, signal) {
  const body = { ...question, stream: true, stream_options: { include_usage: true } };
  const response = await request("v1/chat/completions", { body, signal });
  let complete = false;
  try {
    for await (const data of events(response.body)) {
      complete = data === "[DONE]";
      if (complete) continue; // read to the end, so that the server counts the answer as sent
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(sentence(chunk.error.message));
      yield chunk;
    }
  } catch (error) {
    throw error instanceof TypeError ? unreachable() : error;
  }
  if (!complete) throw new ApiError("The answer broke off: the server has closed the connection.");
}

/** Yield the data of server-sent events from a stream of bytes. */
async function* events(bytes) {
  const decoder = new TextDecoder();
  const reader = bytes.getReader();
  let text = "";
  let ended = false;
  try {
    while (!ended) {
      const { done, value } = await reader.read();
      ended = done;
      text += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const blocks = text.split(/\r?\n\r?\n/);
      text = done ? "" : blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } finally {
    if (!ended) reader.cancel().catch(() => {}); // the caller stopped reading
  }
}

/** Return a call's result; while the model is loading, wait and call again. */
async function onceLoaded(call, signal) {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (error.code !== "loading") throw error;
    }
    if (waiting++ === 0) access.dispatchEvent(new Event("loading"));
    try {
      while (await isLoading(signal)) await new Promise((wake) => setTimeout(wake, POLL));
    } finally {
      if (--waiting === 0) access.dispatchEvent(new Event("loaded"));
    }
  }
}

async function isLoading(signal) {
  signal?.throwIfAborted();
  try {
    await requestOnce("ready", { signal });
    return false;
  } catch (error) {
    if (error.code === "loading") return true;
    throw error;
  }
}

const request = (path, how = {}) => onceLoaded(() => requestOnce(path, how), how.signal);

async function requestOnce(path, { method, body, signal } = {}) {
  const sent = body ? { "Content-Type": "application/json" } : {};
  let response;
  try {
    response = await fetch(path, {
      method: method ?? (body ? "POST" : "GET"),
      headers: { ...headers(), ...sent },
      body: body ? JSON.stringify(body) : undefined,
      signal,
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (!response.ok) throw failure(response.status, await response.text(), response.headers.get("Retry-After"));
  return response;
}

const headers = () => (apiKey() ? { Authorization: `Bearer ${apiKey()}` } : {});

/** Make an ApiError of an error response. */
function failure(status, text, retry) {
  const retryAfter = Number(retry) || 0;
  if (status === 401) {
    access.dispatchEvent(new Event("unauthorized"));
    return new ApiError(apiKey() ? "The server refuses this API key." : "The server wants an API key.", { status });
  }
  let error;
  try {
    error = JSON.parse(text).error;
  } catch {
    error = { message: `the server answers with ${status}` }; // the response is from a proxy
  }
  if (status === 429 || (status === 503 && error.code === "overloaded")) error.message = "the server is busy";
  const { code } = error;
  return new ApiError(sentence(error.message), { status, code, retryAfter: retryAfter || (status === 503 ? 5 : 0) });
}

const unreachable = () => new ApiError("The server does not answer. Is it running?");

const aborted = () => new DOMException("given up", "AbortError");

/** Make a message a sentence: a full stop, and a capital letter unless it starts with a name. */
function sentence(message) {
  const text = String(message).trim();
  const first = /^[a-z]+\s/.test(text) ? text.charAt(0).toUpperCase() : text.charAt(0);
  return first + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
