// A click on a budget, at its button or where it is drawn, dims the other budgets in all figures.
// A second click, or Escape, shows all of them again.
"use strict";
{
  const box = document.getElementById("budgets");
  const buttons = [...box.querySelectorAll("button")];
  const figures = [...document.querySelectorAll("svg")].map((svg) => [
    ...svg.querySelectorAll("[data-c]"),
  ]);
  const near = (one, other) => Math.abs(Math.log(one / other)) < 0.1;
  let shown = null;

  const show = (budget) => {
    shown = budget;
    for (const marks of figures) {
      const chosen = marks.filter((mark) => budget === null || near(mark.dataset.c, budget));
      // A figure without this budget, such as one of other budgets, stays as it is.
      const clear = new Set(chosen.length ? chosen : marks);
      for (const mark of marks) mark.classList.toggle("dim", !clear.has(mark));
    }
    for (const button of buttons) {
      const pressed = budget !== null && near(button.dataset.budget, budget);
      button.setAttribute("aria-pressed", String(pressed));
    }
  };

  box.hidden = false;
  document.addEventListener("click", (event) => {
    const mark = event.target.closest("svg [data-c]");
    const button = event.target.closest("#budgets button");
    const budget = mark?.dataset.c ?? button?.dataset.budget;
    if (budget) show(shown !== null && near(budget, shown) ? null : budget);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") show(null);
  });
}
