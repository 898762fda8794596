// A click on a budget, at its button or where it is drawn, dims the other budgets in all figures.
// A second click, or Escape, shows all of them again.
"use strict";
{
  const box = document.getElementById("budgets");
  const buttons = [...box.querySelectorAll("button")];
  const marks = [...document.querySelectorAll("svg [data-c]")];
  const near = (one, other) => Math.abs(Math.log(one / other)) < 0.1;
  let shown = null;

  const show = (budget) => {
    shown = budget;
    for (const mark of marks) {
      mark.classList.toggle("dim", budget !== null && !near(mark.dataset.c, budget));
    }
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.budget === budget));
    }
  };

  box.hidden = false;
  document.addEventListener("click", (event) => {
    const mark = event.target.closest("svg [data-c]");
    const button = mark
      ? buttons.find((one) => near(mark.dataset.c, one.dataset.budget))
      : event.target.closest("#budgets button");
    if (button) show(button.dataset.budget === shown ? null : button.dataset.budget);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") show(null);
  });
}
