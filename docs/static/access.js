// What readers with a keyboard or a screen reader need, and the theme leaves out.
document.querySelectorAll("p.caption[role=heading]").forEach(p => p.setAttribute("aria-level", "2"));
document.querySelectorAll("pre").forEach(pre => { if (pre.scrollWidth > pre.clientWidth) pre.tabIndex = 0; });
