// The live page: a camera, the screen or a file is watched, and the model speaks when it has something to say.

import { model } from "./api.js";
import { byId, element, problem } from "./dom.js";
import { LiveSession, pictureOf } from "./live_session.js";

const MOST_SEEN = 8; // frames that are shown

const view = byId("view");
const question = byId("question");
let session = null;
let timer = 0;
let begun = 0; // when the session began, in milliseconds
let busy = false; // a frame is on its way
let line = null; // the reply that is being said
let newest = 0; // time of the newest frame that was sent

byId("camera").addEventListener("click", () => start(() => navigator.mediaDevices.getUserMedia({ video: true })));
byId("screen").addEventListener("click", () => start(() => navigator.mediaDevices.getDisplayMedia({ video: true })));
byId("pick").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  if (file) start(async () => file);
  target.value = "";
});
byId("end").addEventListener("click", () => session?.end());
byId("interrupt").addEventListener("click", () => session?.interrupt());
byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
document.addEventListener("keydown", ({ key }) => key === "Escape" && session?.interrupt());
addEventListener("pagehide", () => session?.end());

/** Watch what `open` gives: a stream, or a file. */
async function start(open) {
  byId("notice").replaceChildren();
  if (session) return;
  let source;
  try {
    source = await open();
  } catch (error) {
    if (error.name !== "NotAllowedError") byId("notice").replaceChildren(problem(`It cannot be watched: ${error.message}.`));
    return;
  }
  if (source instanceof File) view.src = URL.createObjectURL(source);
  else view.srcObject = source;
  const prompt = question.value.trim();
  if (prompt) add("asked", prompt);
  question.value = "";
  session = new LiveSession(prompt);
  listen(session);
  running(true);
  tell("Connecting …");
}

function listen(live) {
  const on = (type, take) => live.addEventListener(type, ({ detail }) => take(detail));
  on("session.ready", async () => {
    begun = performance.now();
    newest = 0;
    tell("Watching.");
    try {
      await view.play();
    } catch {
      byId("notice").replaceChildren(problem("This browser cannot play the video."));
      live.end();
      return;
    }
    look();
    timer = setInterval(look, 1000 / Number(byId("fps").value));
  });
  on("input.frame.processed", processed);
  on("response.text.delta", say);
  on("response.turn.silence", ({ timestamp }) => {
    line = null;
    if (timestamp !== null) tell(`Silent at ${seconds(timestamp)}`);
  });
  on("response.done", ({ finish_reason: reason }) => {
    line = null;
    if (reason === "interrupted") tell("Interrupted.");
  });
  on("response.turn.interrupted", () => (line = null));
  on("session.rolled_over", () => add("quiet", "The session goes on in a new context."));
  on("over", over);
}

/** Send what there is to see now; leave it out while the frame before is on its way. */
async function look() {
  if (busy || !session || !view.videoWidth) return;
  if (view.ended) {
    clearInterval(timer);
    tell("The video is over; the model can still be asked.");
    return;
  }
  busy = true;
  const time = view.srcObject ? (performance.now() - begun) / 1000 : view.currentTime;
  newest = Math.max(newest, time);
  const shown = { time: newest, sent: performance.now() };
  try {
    const picture = await pictureOf(view);
    show(shown, picture);
    if (!(await session?.frame(picture, shown.time))) byId("seen").lastChild?.remove();
  } finally {
    busy = false;
  }
}

/** Show a frame that was sent; it is paler until the model has seen it. */
function show({ time, sent }, picture) {
  const url = URL.createObjectURL(picture);
  const image = element("img", { src: url, alt: `Frame at ${seconds(time)}` });
  image.addEventListener("load", () => URL.revokeObjectURL(url));
  const item = element("li", { className: "waits" }, image, element("div", { textContent: seconds(time) }));
  item.dataset.time = time;
  item.dataset.sent = sent;
  byId("seen").append(item);
  while (byId("seen").childElementCount > MOST_SEEN) byId("seen").firstChild.remove();
}

function processed({ timestamp }) {
  for (const item of byId("seen").children) {
    if (Number(item.dataset.time) > timestamp) continue;
    if (item.classList.contains("waits")) {
      const lag = Math.round(performance.now() - Number(item.dataset.sent));
      byId("lag").textContent = `Seen up to ${seconds(timestamp)}, ${lag} ms after it was shown`;
    }
    item.classList.remove("waits");
  }
}

function say({ delta }) {
  if (!line) {
    if (!delta.trim()) return;
    const time = [...byId("seen").children].filter((item) => !item.classList.contains("waits")).at(-1)?.dataset.time;
    line = element("span");
    const stamp = time === undefined ? [] : [element("time", { textContent: seconds(Number(time)) }), " "];
    byId("said").append(element("li", {}, ...stamp, line));
    tell("Speaking …");
  }
  line.textContent += delta;
  byId("said").lastChild.scrollIntoView({ block: "nearest" });
}

function ask() {
  const text = question.value.trim();
  if (!text || !session) return;
  add("asked", text);
  question.value = "";
  session.ask(text);
}

function over(why) {
  clearInterval(timer);
  for (const track of view.srcObject?.getTracks() ?? []) track.stop();
  if (view.src) URL.revokeObjectURL(view.src);
  view.srcObject = null;
  view.removeAttribute("src");
  session = line = null;
  running(false);
  tell("The session is over.");
  if (why) byId("notice").replaceChildren(problem(why));
}

function running(is) {
  for (const id of ["camera", "screen", "pick", "fps"]) byId(id).disabled = is;
  for (const id of ["send", "interrupt"]) byId(id).disabled = !is;
  byId("end").hidden = !is;
  question.placeholder = is ? "Ask a question" : "Tell me when …";
}

const add = (kind, text) => byId("said").append(element("li", { className: kind, textContent: text }));
const tell = (text) => (byId("state").textContent = text);
const seconds = (time) => `${time.toFixed(1)} s`;

model()
  .then(({ id }) => (byId("model").textContent = id))
  .catch((error) => byId("notice").replaceChildren(problem(error.message)));
