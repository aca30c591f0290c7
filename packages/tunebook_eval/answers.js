const PAGE = 50; // Rows in the page at a time; with all of them a letter typed takes seconds to be seen.
const at = (id) => document.getElementById(id);
const {arms, rows} = JSON.parse(at("rows").textContent);
const tuned = arms.indexOf("tuned");
const body = at("answers").querySelector("tbody");
let texts, found, first;

function make(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.textContent = text;
  return made;
}

function outcome(scores) {
  const before = scores[arms.indexOf(at("against").value)] ?? null, after = scores[tuned] ?? null;
  if (before === null || after === null) return "unscored";
  return after > before ? "win" : after < before ? "loss" : "tie";
}

function fits(scores, ended) {
  const wanted = at("outcome").value, before = scores[arms.indexOf(at("against").value)];
  if (wanted === "gained") return before === 0 && scores[tuned] === 1;
  if (wanted === "lost") return before === 1 && scores[tuned] === 0;
  if (wanted === "unended") return Boolean(ended?.[tuned]);
  return !wanted || outcome(scores) === wanted;
}

function cell(label, ...inside) {
  const made = document.createElement("td");
  made.dataset.label = label;
  made.append(...inside);
  return made;
}

function drawn([set, stratum, question, expected, shots, answers, scores, ended]) {
  const row = document.createElement("tr"), chip = make("span", "chip", stratum ? `${set} / ${stratum}` : set);
  row.append(cell("question", chip, `\n${question}`), cell("expected", expected));
  arms.forEach((arm, n) => {
    const inside = [];
    if (scores[n] !== null) {
      const word = arm === "tuned" ? outcome(scores) : "";
      const colour = {win: " pass", loss: " fail"}[word] ?? "";
      inside.push(make("span", `chip${colour}`, `${scores[n].toFixed(3)} ${word}`.trim()), "\n");
    }
    if (ended?.[n]) inside.push(make("span", "chip inconclusive", ended[n]), "\n");
    inside.push(answers[n] ?? "");
    if (shots[n].length) inside.push(make("span", "muted", `\n\nshown: ${shots[n].join(", ")}`));
    row.append(cell(arm, ...inside));
  });
  return row;
}

function turn(to) {
  first = Math.max(0, Math.min(to, PAGE * Math.floor((found.length - 1) / PAGE)));
  const page = found.slice(first, first + PAGE);
  body.replaceChildren(...page.map(drawn));
  at("answers").scrollTop = 0;
  at("previous").setAttribute("aria-disabled", first === 0);
  at("next").setAttribute("aria-disabled", first + PAGE >= found.length);
  const [from, last, matching, all] = [first + 1, first + page.length, found.length, rows.length]
    .map((number) => number.toLocaleString("en"));
  at("shown").textContent = page.length ? `${from} to ${last} of ${matching}, of all ${all}` : `none of ${all} fits`;
}

function filter() {
  const text = at("find").value.trim().toLowerCase(), set = at("set").value;
  if (text) texts ??= rows.map((row) => row.slice(0, 6).flat(2).join("\n").toLowerCase());
  found = rows.filter((row, n) => (!set || row[0] === set) && (!text || texts[n].includes(text)) && fits(row[6], row[7]));
  turn(0);
}

at("find").addEventListener("input", filter);
for (const id of ["set", "outcome", "against"]) at(id).addEventListener("change", filter);
at("previous").addEventListener("click", () => turn(first - PAGE));
at("next").addEventListener("click", () => turn(first + PAGE));
filter();
