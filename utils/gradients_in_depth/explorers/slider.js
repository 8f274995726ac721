// A labelled slider over a list of values, with a number field for people who type.
// The browser's own controls: they bring names, keyboard and focus with them.

function format(value) {
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
}

function nearest(values, wanted) {
  const distance = (index) => Math.abs(values[index] - wanted);
  return values.reduce((best, _, index) => (distance(index) < distance(best) ? index : best), 0);
}

function render({ model, el }) {
  const values = model.get("values");
  const unit = model.get("unit");
  const name = model.get("label");
  const ends = `${format(values[0])} to ${format(values.at(-1))}`;

  const label = document.createElement("label");
  label.textContent = name;
  const range = document.createElement("input");
  Object.assign(range, { type: "range", min: 0, max: values.length - 1, step: 1 });
  range.id = `gid-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
  label.htmlFor = range.id;
  const field = document.createElement("input");
  Object.assign(field, { type: "number", step: "any", min: values[0], max: values.at(-1), title: ends });
  field.setAttribute("aria-label", `${name}, as a number from ${ends}${unit && " " + unit}`);
  const suffix = document.createElement("span");
  suffix.textContent = unit;

  const show = () => {
    const value = format(values[model.get("index")]);
    range.value = model.get("index");
    range.setAttribute("aria-valuetext", unit ? `${value} ${unit}` : value);
    field.value = value;
  };
  const choose = (index) => {
    model.set("index", index);
    show();
    model.save_changes();
  };
  range.addEventListener("input", () => choose(Number(range.value)));
  field.addEventListener("change", () =>
    choose(field.value === "" ? model.get("index") : nearest(values, Number(field.value))),
  );
  // JupyterLab reads plain keys as commands of the notebook; here they belong to the control.
  el.addEventListener("keydown", (event) => {
    const command = event.ctrlKey || event.metaKey || event.altKey || event.shiftKey;
    if (!command && event.key !== "Tab" && event.key !== "Escape") event.stopPropagation();
  });
  model.on("change:index", show);
  show();
  el.classList.add("gid-slider");
  el.append(label, range, field, suffix);
  return () => model.off("change:index", show);
}

export default { render };
