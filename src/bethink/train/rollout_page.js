"use strict";
// Hides and shows what the page holds already; nothing here builds markup out of text.
const form = document.getElementById("filters");
const step = form.elements.step;
const groups = [...document.querySelectorAll(".group")].map((element) => ({
  element,
  step: element.dataset.step,
  heading: lower(element, "h2") + lower(element, ".question") + lower(element, ".reference"),
  rollouts: [...element.querySelectorAll(".rollout")].map((rollout) => ({
    element: rollout,
    ...rollout.dataset,
    words: lower(rollout),
  })),
}));

function lower(element, selector) {
  return ((selector ? element.querySelector(selector) : element)?.textContent ?? "").toLowerCase();
}

function apply() {
  const { mode, outcome, low, high, words } = Object.fromEntries(new FormData(form));
  const sought = words.trim().toLowerCase();
  let shown = 0;
  for (const group of groups) {
    let any = false;
    for (const rollout of group.rollouts) {
      const fits =
        (!step.value || group.step === step.value) &&
        (!mode || rollout.mode === mode) &&
        (!outcome || rollout.outcome === outcome) &&
        (!low || (rollout.reward !== "" && Number(rollout.reward) >= Number(low))) &&
        (!high || (rollout.reward !== "" && Number(rollout.reward) <= Number(high))) &&
        (!sought || group.heading.includes(sought) || rollout.words.includes(sought));
      rollout.element.hidden = !fits;
      any ||= fits;
      shown += fits;
    }
    group.element.hidden = !any;
  }
  form.querySelector("output").textContent = `${shown.toLocaleString("en")} shown`;
  for (const button of form.querySelectorAll("[data-move]")) button.disabled = !step.options[moved(button)];
}

function moved(button) {
  const place = step.selectedIndex + Number(button.dataset.move);
  return place < 0 ? step.options.length : place;
}

form.addEventListener("input", apply);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(apply));
for (const button of form.querySelectorAll("[data-move]")) {
  button.addEventListener("click", () => {
    step.selectedIndex = moved(button);
    apply();
  });
}
form.hidden = false;
apply();
