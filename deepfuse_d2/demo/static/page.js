"use strict";

const find = (id) => document.getElementById(id);
const state = { picture: null, asked: 0, shown: 0, timer: null };

async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; is it still running?");
  }
  const answer = await response.json().catch(() => ({ error: `Status ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function complain(text) {
  find("message").textContent = text;
  find("message").hidden = !text;
}

function tell(text) {
  find("status").textContent = text;
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function figure(id, title, image, lines) {
  const caption = element("figcaption", {}, element("strong", {}, title));
  for (const line of lines) caption.append(element("p", {}, ...line));
  return element("figure", { id }, element("img", { src: image, alt: title }), caption);
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;

function panelLines(panel) {
  const lines = [];
  if (panel.instances) {
    const total = panel.instances.reduce((sum, [, count]) => sum + count, 0);
    const kinds = panel.instances.map(([name, count]) => `${count} ${name}`).join(", ");
    lines.push([`${total} instances${kinds ? `: ${kinds}` : ""}`]);
  }
  if (panel.semantics) {
    const shares = panel.semantics.slice(0, 8);
    lines.push([shares.map(([name, share]) => `${name} ${percent(share)}`).join(", ")]);
  }
  lines.push([`network: ${panel.seconds.toFixed(2)} s`]);
  return lines;
}

function differenceLines(difference) {
  const lines = [];
  const key = (kind, text) => [element("span", { class: `key ${kind}` }), text];
  if (difference.has_instances) {
    lines.push(key("both", `${difference.both} found by both`));
    lines.push(key("first", `${difference.first} by the first alone`));
    lines.push(key("second", `${difference.second} by the second alone`));
  }
  if (difference.pixels !== null) {
    lines.push(key("pixels", `${percent(difference.pixels)} of the pixels labelled differently`));
  }
  return lines;
}

function show(answer) {
  const figures = answer.panels.map((panel, k) =>
    figure(`panel-${k}`, panel.title, panel.image, panelLines(panel)));
  if (answer.difference) {
    figures.push(figure("difference", "Difference", answer.difference.image,
      differenceLines(answer.difference)));
  }
  find("results").replaceChildren(...figures);
}

async function draw() {
  if (!state.picture || find("first").value === "") return;
  const number = ++state.asked;
  const models = [find("first").value, find("second").value].filter((x) => x !== "").map(Number);
  const layers = ["instances", "semantics"].filter((name) => find(name).checked);
  find("results").classList.add("busy");
  tell("Looking …");
  try {
    const body = JSON.stringify({
      picture: state.picture.picture, models, layers, threshold: Number(find("threshold").value),
    });
    const headers = { "Content-Type": "application/json" };
    const answer = await send("/drawings", { method: "POST", headers, body });
    if (number < state.asked) return; // a later choice is under way
    show(answer);
    const { width, height, note } = state.picture;
    tell([note || `${width} x ${height} pixels`, answer.note].filter(Boolean).join(". "));
    state.shown = number;
    find("results").dataset.shown = number; // how tests know that a drawing is there
  } catch (error) {
    if (number < state.asked) return;
    complain(error.message);
    tell("");
  } finally {
    if (number === state.asked) find("results").classList.remove("busy");
  }
}

function drawSoon() {
  clearTimeout(state.timer);
  state.timer = setTimeout(draw, 120); // a slider speaks many times a second
}

async function take(promise) {
  complain("");
  tell("Reading …");
  try {
    state.picture = await promise;
  } catch (error) {
    complain(error.message);
    tell("");
    return;
  }
  await draw();
}

function takeFile(file) {
  if (!file) return;
  find("frame").value = "";
  if (file.size > 16 * 2 ** 20) {
    complain(`${file.name} is larger than 16 MiB; give a smaller one.`);
    return;
  }
  // its bytes alone: the server never learns its name
  const headers = { "Content-Type": "application/octet-stream" };
  take(send("/pictures", { method: "POST", headers, body: file }));
}

function listen() {
  const drop = find("drop");
  find("file").addEventListener("change", (event) => {
    takeFile(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
    });
  }
  document.addEventListener("drop", (event) => takeFile(event.dataTransfer.files[0]));
  find("frame").addEventListener("change", (event) => {
    const number = event.target.value;
    if (number !== "") take(send(`/frames/${Number(number)}`, { method: "POST" }));
  });
  for (const id of ["first", "second", "instances", "semantics"]) {
    find(id).addEventListener("change", () => { complain(""); draw(); });
  }
  find("threshold").addEventListener("input", (event) => {
    find("threshold-value").textContent = Number(event.target.value).toFixed(2);
    drawSoon();
  });
}

async function begin() {
  listen();
  try {
    const { models, frames } = await send("/choices");
    const options = (names) => names.map((name, k) => element("option", { value: k }, name));
    find("first").append(...options(models));
    find("second").append(...options(models));
    find("frame").append(...options(frames));
    if (!models.length) complain("No trained model was found; train one, then start this anew.");
  } catch (error) {
    complain(error.message);
  }
  document.body.dataset.ready = "yes";
}

begin();
