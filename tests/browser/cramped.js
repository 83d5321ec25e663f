// What sticks out at the side, and which buttons are cut, lie over each other or, with `reach`, outside of the screen.
([box, reach]) => {
  const bounds = (node) => node.getBoundingClientRect();
  // What is scrolled away within a menu is nowhere.
  const rect = (node) => {
    const own = bounds(node);
    if (!node.closest(".menu")) return own;
    const menu = bounds(node.closest(".menu"));
    const top = Math.max(own.top, menu.top);
    return { left: own.left, right: own.right, top, bottom: Math.max(top, Math.min(own.bottom, menu.bottom)) };
  };
  const said = (node) => `${node.getAttribute("class")} “${node.textContent.trim().slice(0, 40)}”`;
  const seen = (node) => node.checkVisibility() && getComputedStyle(node).clipPath === "none";
  const all = [...document.querySelectorAll(`${box} *`)].filter(seen);
  const buttons = all.filter((node) => node.matches("button:not(.self)"));
  const pairs = buttons.flatMap((one, n) => buttons.slice(n + 1).map((two) => [one, two]));
  const outside = (node) => rect(node).left < -1 || rect(node).right > innerWidth + 1;
  const away = (node) => reach && (rect(node).top < 0 || rect(node).bottom > innerHeight);
  const cut = (node) => node.scrollWidth > node.clientWidth + 1;
  const overlap = ([one, two]) => {
    const [a, b] = [rect(one), rect(two)];
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    return wide > 1 && high > 1;
  };
  // The more cameras there are, the longer the menu: where the text is large it may cover the head while it is open.
  const within = (pair, place) => pair.some((node) => node.closest(place));
  const behind = (pair) => within(pair, ".menu") && within(pair, ".scene-top");
  return [
    ...all.filter(outside).map((node) => `sticks out: ${said(node)}`),
    ...buttons.filter(away).map((node) => `out of reach: ${said(node)}`),
    ...buttons.filter(cut).map((node) => `cut: ${said(node)} ${node.scrollWidth} > ${node.clientWidth}`),
    ...pairs.filter((pair) => overlap(pair) && !behind(pair)).map((pair) => `over each other: ${pair.map(said)}`),
    ...(document.documentElement.scrollWidth > innerWidth ? ["the page scrolls sideways"] : []),
  ];
};
