// The picture as a place for prompts. A click is a point, a drag is a box; with the keyboard, arrow keys move a cross,
// Enter sets a point there and B a corner of a box. Shift or the right button makes a point that is to be left out.
// `element`, `props`, `trigger` and `watch` are gradio's.

const DRAG_PX = 5; // of the screen: a shorter way is a click
const find = (name) => element.querySelector(name);
let cross = null; // [x, y] in pixels of the image, moved by the keyboard
let corner = null; // first corner of a box
let pressed = null; // where the pointer went down: {at: [x, y], screen: [x, y], id}

function size() {
    return [props.value?.width ?? 0, props.value?.height ?? 0];
}

function show() {
    const [width, height] = size();
    const image = find("img");
    find(".stage").hidden = !width;
    find(".nothing").hidden = Boolean(width);
    find(".message").textContent = props.value?.message ?? "";
    find(".message").dataset.kind = props.value?.kind ?? "";
    find(".stage").classList.toggle("drawing", props.mode === "boxes");
    if (!width) return;
    if (image.naturalWidth && find("svg").getAttribute("viewBox") !== `0 0 ${width} ${height}`) cross = null;
    image.src = props.value.src;
    image.alt = props.value.alt;
    find("svg").setAttribute("viewBox", `0 0 ${width} ${height}`);
    find(".stage").style.setProperty("--ratio", width / height);
    find(".stage").removeAttribute("aria-busy");
    corner = null;
    draw();
}

function draw(end = null) {
    const svg = find("svg");
    const start = corner ?? (pressed && end ? pressed.at : null);
    const to = end ?? cross;
    svg.innerHTML = "";
    const add = (name, attributes) => {
        const shape = document.createElementNS("http://www.w3.org/2000/svg", name);
        for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
        svg.append(shape);
    };
    if (start && to) {
        const box = { x: Math.min(start[0], to[0]), y: Math.min(start[1], to[1]) };
        box.width = Math.abs(start[0] - to[0]);
        box.height = Math.abs(start[1] - to[1]);
        add("rect", { ...box, class: "under" });
        add("rect", { ...box, class: "over" });
    }
    if (cross && document.activeElement === find(".stage")) {
        const [width, height] = size();
        const lines = `M0 ${cross[1]}H${width}M${cross[0]} 0V${height}`;
        add("path", { d: lines, class: "under" });
        add("path", { d: lines, class: "over" });
    }
}

function position(event) {
    const frame = find("img").getBoundingClientRect();
    const along = (value, start, length, limit) =>
        Math.max(0, Math.min(limit - 1, Math.floor(((value - start) / length) * limit)));
    const [width, height] = size();
    return [
        along(event.clientX, frame.left, frame.width, width),
        along(event.clientY, frame.top, frame.height, height),
    ];
}

function send(prompt) {
    find(".stage").setAttribute("aria-busy", "true");
    trigger("prompt", prompt);
}

function sendPoint(at, leaveOut) {
    send({ kind: "point", at, leave_out: leaveOut });
}

function sendBox(start, end) {
    send({ kind: "box", corners: [...start, ...end] });
}

element.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".stage") || event.button === 1) return;
    pressed = { at: position(event), screen: [event.clientX, event.clientY], id: event.pointerId };
    cross = null;
});

window.addEventListener("pointermove", (event) => {
    if (pressed?.id === event.pointerId) draw(position(event));
});

window.addEventListener("pointerup", (event) => {
    if (pressed?.id !== event.pointerId) return;
    const { at, screen } = pressed;
    const dragged = Math.hypot(event.clientX - screen[0], event.clientY - screen[1]) > DRAG_PX;
    const end = position(event);
    if (dragged && event.button === 0) {
        sendBox(at, end);
    } else if (!dragged) {
        sendPoint(at, event.button === 2 || event.shiftKey);
    }
    pressed = null;
    if (!dragged) draw();
});

window.addEventListener("pointercancel", () => {
    pressed = null;
    draw();
});

element.addEventListener("contextmenu", (event) => {
    if (event.target.closest(".stage")) event.preventDefault();
});

element.addEventListener("keydown", (event) => {
    if (!event.target.closest(".stage") || event.ctrlKey || event.metaKey || event.altKey) return;
    const [width, height] = size();
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.min(width, height) / 50));
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    cross ??= [Math.floor(width / 2), Math.floor(height / 2)];
    if (event.key in moves) {
        const [dx, dy] = moves[event.key];
        cross = [Math.max(0, Math.min(width - 1, cross[0] + dx)), Math.max(0, Math.min(height - 1, cross[1] + dy))];
        find(".where").textContent = `x ${cross[0]}, y ${cross[1]}`;
    } else if (event.key === "Enter") {
        sendPoint(cross, event.shiftKey);
    } else if (event.key === "b" || event.key === "B") {
        if (corner) sendBox(corner, cross);
        else find(".where").textContent = `first corner at x ${cross[0]}, y ${cross[1]}`;
        corner = corner ? null : cross;
    } else if (event.key === "Escape") {
        corner = null;
    } else {
        return;
    }
    event.preventDefault();
    draw();
});

element.addEventListener("focusin", () => draw());
element.addEventListener("focusout", () => draw());
watch(["value", "mode"], show);
show();
