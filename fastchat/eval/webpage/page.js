// The page over data.json: which question, which pair of models, and what was said of them.
// HTML in the data was made safe when the data was made; everything else goes in as text.
"use strict";

const LONG_PX = 272; // what a shortened answer shows
const by = (id) => document.getElementById(id);
let data = null;
let shown = []; // the questions of the chosen category
const at = { question: 0, model: "" };

fetch("data.json")
  .then((reply) => {
    if (!reply.ok) throw new Error(`data.json: HTTP ${reply.status}`);
    return reply.json();
  })
  .then(begin)
  .catch((error) => trouble(`The data could not be read (${error.message}). Make it with python3 -m fastchat.eval.generate_webpage_data_from_table, and serve this folder with python3 -m http.server.`));

function trouble(text) {
  by("trouble").textContent = text;
  by("trouble").hidden = false;
}

function begin(value) {
  data = value;
  if (!data.questions.length || !data.models.length) return trouble("There is nothing to show: the data holds no question or no model.");
  data.ours = data.ours || Object.keys(data.questions[0].answers).find((name) => !data.models.includes(name));
  options(by("category"), [["", "all"], ...[...new Set(data.questions.map((q) => q.category))].map((c) => [c, c])]);
  options(by("model"), data.models.map((m) => [m, name(m)]));
  by("category").onchange = () => { listQuestions(); go(0); };
  by("question").onchange = () => go(Number(by("question").value));
  by("model").onchange = () => { at.model = by("model").value; show(); };
  by("previous").onclick = () => go(at.question - 1);
  by("next").onclick = () => go(at.question + 1);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", fromAddress);
  for (const id of ["choice", "shown", "sums"]) by(id).hidden = false;
  sums();
  listQuestions();
  at.model = data.models[0];
  if (!fromAddress()) show();
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

function name(key) {
  return (data.names && data.names[key]) || key;
}

function listQuestions() {
  const category = by("category").value;
  shown = data.questions.filter((q) => !category || q.category === category);
  options(by("question"), shown.map((q, i) => [i, `${q.id}: ${q.question.slice(0, 128)}`]));
}

function go(place) {
  at.question = (place + shown.length) % shown.length;
  show();
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select, input, textarea")) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1 };
  const turns = { m: 1, M: -1 };
  if (event.key in steps) go(at.question + steps[event.key]);
  else if (event.key in turns) {
    const n = data.models.length;
    at.model = data.models[(data.models.indexOf(at.model) + turns[event.key] + n) % n];
    show();
  }
}

// #question=5&model=bard, so that a comparison can be linked to.
function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const question = data.questions.findIndex((q) => String(q.id) === wanted.get("question"));
  if (question < 0) return false;
  by("category").value = "";
  listQuestions();
  at.question = question;
  if (data.models.includes(wanted.get("model"))) at.model = wanted.get("model");
  show();
  return true;
}

function show() {
  const question = shown[at.question];
  by("question").value = at.question;
  by("model").value = at.model;
  by("place").textContent = `${at.question + 1} of ${shown.length}`;
  by("text").textContent = question.question;
  const scores = question.scores[at.model] || [-1, -1];
  by("answers").replaceChildren(
    card(question, at.model, scores[0], scores[1], "Assistant 1"),
    card(question, data.ours, scores[1], scores[0], "Assistant 2"),
  );
  put(by("review").querySelector(".markdown"), question.evaluations_html, question.evaluations, at.model, "There is no review of this pair.");
  history.replaceState(null, "", `#question=${question.id}&model=${encodeURIComponent(at.model)}`);
}

function card(question, model, score, other, place) {
  const article = element("article");
  const head = element("div", "head");
  const title = element("h2", "", name(model));
  title.append(element("small", "", place));
  head.append(title);
  if (score >= 0) {
    const outcome = score > other ? "win" : score < other ? "lose" : "tie";
    article.classList.add(outcome);
    const words = { win: "better", lose: "weaker", tie: "tie" };
    const told = element("span", "score", `${words[outcome]} · ${score}/10`);
    if (outcome === "win") told.prepend(by("trophy").content.cloneNode(true));
    head.append(told);
  } else head.append(element("span", "score", "no score"));
  const body = element("div", "markdown");
  put(body, question.answers_html, question.answers, model, "There is no answer.");
  article.append(head, body);
  requestAnimationFrame(() => shorten(article, body));
  return article;
}

function shorten(article, body) {
  if (body.scrollHeight <= LONG_PX * 1.25) return;
  const more = element("button", "more", "Show more");
  more.type = "button";
  more.setAttribute("aria-expanded", "false");
  body.classList.add("short");
  more.onclick = () => {
    const isShort = body.classList.toggle("short");
    more.textContent = isShort ? "Show more" : "Show less";
    more.setAttribute("aria-expanded", String(!isShort));
  };
  article.append(more);
}

function put(body, html, texts, key, absent) {
  const isHtml = html && html[key] !== undefined;
  if (isHtml) body.innerHTML = html[key];
  else body.textContent = (texts && texts[key]) || absent;
  body.classList.toggle("plain", !isHtml);
}

function sums() {
  const rows = data.totals || [];
  by("sums").hidden = !rows.length;
  by("sums").querySelector("tbody").replaceChildren(...rows.map((row) => {
    const line = element("tr");
    const best = row.totals[0] >= row.totals[1] ? 0 : 1;
    line.append(
      ...row.models.map((m, i) => element("td", i === best ? "best" : "", name(m))),
      ...row.totals.map((t, i) => element("td", i === best ? "best" : "", t.toFixed(1))),
      element("td", "", row.wins[0]), element("td", "", row.ties), element("td", "", row.wins[1]),
    );
    return line;
  }));
}

function element(tag, kind = "", text = "") {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.textContent = text;
  return made;
}
