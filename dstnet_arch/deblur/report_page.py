"""The HTML of `report`: templates with ``$name`` for what is put in, which is escaped before."""

from __future__ import annotations

from string import Template

PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --ground: #fff; --text: #1b1b1b; --quiet: #565656; --line: #d0d0d0; --before: #b04a00; --after: #0062a8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #151515; --text: #ececec; --quiet: #b0b0b0; --line: #444; --before: #ff9d57; --after: #6cb8ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.5rem; }
p { max-width: 46rem; }
figure { margin: 1.25rem 0; }
figcaption, .quiet { color: var(--quiet); }
img { display: block; }
:focus-visible { outline: 3px solid var(--after); outline-offset: 2px; }
.frame { position: relative; width: fit-content; max-width: 100%; --cut: 50%; }
.frame img { width: 100%; height: auto; user-select: none; -webkit-user-select: none; }
.frame img + img { position: absolute; inset: 0; height: 100%; clip-path: inset(0 0 0 var(--cut)); }
.frame::after {
  content: ''; position: absolute; inset: 0 auto 0 var(--cut); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 0 1px #000; pointer-events: none;
}
.frame input {
  position: absolute; inset: 0; z-index: 1; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  touch-action: pan-y;
}
.frame:focus-within { outline: 3px solid var(--after); outline-offset: 2px; }
.frame span {
  position: absolute; top: 0.4rem; left: 0.4rem; padding: 0 0.45rem; background: #000b; color: #fff;
  font-size: 0.85rem; pointer-events: none;
}
.frame span + span { left: auto; right: 0.4rem; }
body:has(#full:checked) .scroll { overflow-x: auto; }
body:has(#full:checked) .frame { max-width: none; }
body:has(#full:checked) .frame img { width: auto; max-width: none; }
.profiles { display: grid; gap: 0.75rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.profiles figure { margin: 0; }
.profiles img { width: 100%; height: auto; max-height: 40rem; object-fit: fill; }
svg { display: block; width: 100%; max-width: 42rem; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: var(--text); }
svg .tick { fill: var(--quiet); font-size: 12px; }
svg .grid { stroke: var(--line); }
svg .axis { stroke: var(--quiet); fill: none; }
svg polyline { fill: none; stroke-width: 2; }
svg .before { stroke: var(--before); }
svg .after { stroke: var(--after); }
svg polyline.before { stroke-dasharray: 6 3; }
svg circle.before { fill: var(--before); }
svg circle.after { fill: var(--after); }
.key { margin: 0.25rem 0; }
.key b { font-weight: 600; }
.key b::before {
  content: ''; display: inline-block; width: 1.6rem; margin-right: 0.4rem; border-top: 3px solid; vertical-align: 0.3em;
}
.key .before { color: var(--before); margin-right: 1.25rem; }
.key .before::before { border-top-style: dashed; }
.key .after { color: var(--after); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.15rem 1rem 0.15rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; font-weight: normal; }
dl { margin: 0; }
dl div { display: grid; grid-template-columns: 10rem 1fr; gap: 0 1rem; border-bottom: 1px solid var(--line); }
dt { color: var(--quiet); }
dd { margin: 0; }
summary { cursor: pointer; }
@media (max-width: 32rem) { dl div { grid-template-columns: 1fr; padding: 0.2rem 0; } }
@media print { .frame input { display: none; } }
</style>
</head>
<body>
<main>
<h1>$title</h1>

<section aria-labelledby="frames">
<h2 id="frames">Frames</h2>
<p>Left of the line the frame before, right of it the frame after. Drag the line, or choose a frame with the Tab key and
move it with the arrow keys, Home and End.</p>
<p><label><input type="checkbox" id="full"> Full size: a pixel of the frame for a pixel of the page</label></p>
<noscript><p>Moving the line needs JavaScript. Without it, it stays in the middle.</p></noscript>
$figures
</section>

<section aria-labelledby="time">
<h2 id="time">One column over time</h2>
$profile
</section>

<section aria-labelledby="sharpness">
<h2 id="sharpness">Sharpness over time</h2>
<p>The variance of the Laplacian of each frame$chart_steps. It grows with fine detail, but with noise as well, and falls
with blur: it says how much the frames differ in detail, not whether the detail is right. The median is $before before
and $after after$times.</p>
<p class="key"><b class="before">before</b> <b class="after">after</b></p>
<svg viewBox="0 0 440 256" role="img" aria-labelledby="chart-title chart-text">
<title id="chart-title">Sharpness of each frame before and after</title>
<desc id="chart-text">A line chart over the frames. The median is $before before and $after after. Values are in the
table below.</desc>
$chart
</svg>
<details>
<summary>The values as a table</summary>
<table>
<thead><tr><th scope="col">frame</th><th scope="col">before</th><th scope="col">after</th></tr></thead>
<tbody>
$rows
</tbody>
</table>
</details>
</section>

<section aria-labelledby="run">
<h2 id="run">The run</h2>
<dl>
$facts
</dl>
</section>
</main>
<script>
for (const input of document.querySelectorAll('.frame input')) {
  const show = () => {
    input.parentElement.style.setProperty('--cut', input.value + '%');
    input.setAttribute('aria-valuetext', input.value + ' % before, ' + (100 - input.value) + ' % after');
  };
  input.addEventListener('input', show);
  show();
}
</script>
</body>
</html>
""")

FIGURE = Template("""\
<figure>
<div class="scroll">
<div class="frame">
<img src="$before" width="$width" height="$height" alt="Frame $name before">
<img src="$after" width="$width" height="$height" alt="Frame $name after">
<span aria-hidden="true">before</span><span aria-hidden="true">after</span>
<input type="range" min="0" max="100" value="50" aria-label="Frame $name: how much of the frame before is shown">
</div>
</div>
<figcaption>Frame $name, number $number$note</figcaption>
</figure>""")

PROFILE = Template("""\
<p>Column $column of $width, taken from $which; time runs from left to right. Still edges are level lines there, what
moves leaves slanted ones, and flicker shows as upright stripes.</p>
<div class="profiles">
<figure>
<img src="$before" alt="Column $column of all frames before, side by side">
<figcaption>before</figcaption>
</figure>
<figure>
<img src="$after" alt="Column $column of all frames after, side by side">
<figcaption>after</figcaption>
</figure>
</div>""")

TABLE_ROW = Template('<tr><th scope="row">$name</th><td>$before</td><td>$after</td></tr>')
