'use strict';

// What the page holds: tables as columns, the charts without their rows, and a look for light and one for dark.
const DATA = rowsOfEach(embedded('data'));
const SHAPES = embedded('shapes');
const CHARTS = embedded('charts');
const LOOKS = embedded('looks');

const SERVICES = ['yellow', 'green'];
const WEEKDAYS = ['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'];
const EVERYWHERE = 'All boroughs';
const BUSIEST = 10;
const MONTHS = [...new Set(DATA.loaded.map((row) => row.month))].sort();
const DARK = window.matchMedia('(prefers-color-scheme: dark)');

const byId = (id) => document.getElementById(id);
const views = new Map();
const selection = {from: MONTHS[0], to: MONTHS.at(-1), service: 'both', borough: EVERYWHERE};

// -- reading what is embedded ---------------------------------------------------------------------

function embedded(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function rowsOfEach(tables) {
  return Object.fromEntries(Object.entries(tables).map(([name, columns]) => [name, rowsOf(columns)]));
}

function rowsOf(columns) {
  const names = Object.keys(columns);
  return columns[names[0]].map((_, row) => Object.fromEntries(names.map((name) => [name, columns[name][row]])));
}

// -- counting -------------------------------------------------------------------------------------

const services = () => (selection.service === 'both' ? SERVICES : [selection.service]);

function selected(table) {
  return DATA[table].filter(
    (row) => services().includes(row.service) && selection.from <= row.month && row.month <= selection.to,
  );
}

const sum = (rows, column) => rows.reduce((total, row) => total + row[column], 0);

/** Sums of `columns` for each value of `key`: an array of rows, the largest first by the first of the columns. */
function sumsBy(rows, key, ...columns) {
  const groups = new Map();
  for (const row of rows) {
    const group = groups.get(row[key]) ?? {[key]: row[key], ...Object.fromEntries(columns.map((name) => [name, 0]))};
    columns.forEach((name) => (group[name] += row[name]));
    groups.set(row[key], group);
  }
  return [...groups.values()].sort((one, other) => other[columns[0]] - one[columns[0]]);
}

/** How often each weekday, Monday first, occurs in a month such as '2023-01'. */
function weekdaysIn(month) {
  const [year, number] = month.split('-').map(Number);
  const days = new Date(Date.UTC(year, number, 0)).getUTCDate();
  const counts = Array(7).fill(0);
  for (let day = 1; day <= days; day += 1) counts[(new Date(Date.UTC(year, number - 1, day)).getUTCDay() + 6) % 7] += 1;
  return counts;
}

/** Average pickups in each hour of the week. Services may have different months: each is averaged over its own. */
function averageHours() {
  const averages = Array(168).fill(0);
  for (const service of services()) {
    const months = selected('hours').filter((row) => row.service === service);
    const occurs = months.map((row) => weekdaysIn(row.month));
    for (let hour = 0; hour < 168; hour += 1) {
      const trips = months.reduce((total, row) => total + row.trips[hour], 0);
      const times = occurs.reduce((total, counts) => total + counts[Math.floor(hour / 24)], 0);
      if (times > 0) averages[hour] += trips / times;
    }
  }
  return averages.some((average) => average > 0)
    ? averages.map((pickups, hour) => ({weekday: WEEKDAYS[Math.floor(hour / 24)], hour: hour % 24, pickups}))
    : [];
}

/** Pickups of every zone that had any, the busiest first. */
function zonePickups() {
  const months = selected('pickups');
  const all = months.reduce((total, row) => total + row.trips.reduce((one, other) => one + other, 0), 0);
  return DATA.zones
    .map((zone, position) => {
      const trips = months.reduce((total, row) => total + row.trips[position], 0);
      return {...zone, trips, share: all > 0 ? trips / all : 0};
    })
    .filter((zone) => zone.trips > 0)
    .sort((one, other) => other.trips - one.trips);
}

const inBorough = (zone) => selection.borough === EVERYWHERE || zone.borough === selection.borough;

// -- words ----------------------------------------------------------------------------------------

const number = (value, digits = 0) =>
  value.toLocaleString('en-US', {minimumFractionDigits: digits, maximumFractionDigits: digits});
/** Exact as long as it fits a tile. */
const short = (value) =>
  value < 1_000_000
    ? number(value)
    : value.toLocaleString('en-US', {notation: 'compact', minimumSignificantDigits: 4, maximumSignificantDigits: 4});
const money = (value) => `$${number(value, 2)}`;
const percent = (share, digits = 1) => `${number(100 * share, digits)}%`;
const clock = (hour) => `${hour}:00`;

function monthWords(month) {
  return new Date(`${month}-01T00:00Z`).toLocaleDateString('en-GB', {month: 'long', year: 'numeric', timeZone: 'UTC'});
}

function dayWords(day) {
  return new Date(`${day.slice(0, 10)}T00:00Z`).toLocaleDateString('en-GB', {
    day: 'numeric',
    month: 'short',
    year: 'numeric',
    timeZone: 'UTC',
  });
}

const LONG_WEEKDAYS = {
  Mon: 'Mondays', Tue: 'Tuesdays', Wed: 'Wednesdays', Thu: 'Thursdays', Fri: 'Fridays', Sat: 'Saturdays', Sun: 'Sundays',
};

const largest = (rows, column) => rows.reduce((best, row) => (row[column] > best[column] ? row : best));

// -- the charts: their rows, and what they say ----------------------------------------------------

const FIGURES = {
  weekly_trend: {
    rows: () => selected('weeks'),
    says: (rows) => {
      const busiest = sumsBy(rows, 'week', 'trips')[0];
      return `The busiest week began on ${dayWords(busiest.week)}: ${short(busiest.trips)} trips`;
    },
    nothing: 'No whole week in this selection.',
  },
  zone_map: {
    rows: () => (SHAPES.some((shape) => inBorough(shape.properties)) ? zonePickups().filter(inBorough) : []),
    says: (rows) => `${rows[0].zone} is the busiest zone, with ${percent(rows[0].share)} of all pickups`,
    nothing: 'No pickups in this selection.',
  },
  hour_of_week: {
    rows: averageHours,
    says: (rows) => {
      const busiest = largest(rows, 'pickups');
      const quietest = largest(rows.map((row) => ({...row, quiet: -row.pickups})), 'quiet');
      return `${LONG_WEEKDAYS[busiest.weekday]} from ${clock(busiest.hour)} are busiest, ${LONG_WEEKDAYS[quietest.weekday]} from ${clock(quietest.hour)} quietest`;
    },
  },
  airport_trips: {
    rows: () => selected('airports'),
    says: (rows) => {
      const [first] = sumsBy(rows, 'airport', 'trips');
      return `${first.airport} has ${percent(first.trips / sum(rows, 'trips'), 0)} of the airport trips`;
    },
    nothing: 'No airport trips in this selection.',
  },
  fares_by_payment: {
    rows: () => selected('payments'),
    says: (rows) => {
      const [first] = sumsBy(rows, 'payment', 'trips', 'total_amount');
      const how = ['card', 'cash'].includes(first.payment) ? `are paid by ${first.payment}` : `have the payment “${first.payment}”`;
      return `${percent(first.trips / sum(rows, 'trips'), 0)} of the trips ${how}, ${money(first.total_amount / first.trips)} on average`;
    },
  },
  fares_by_distance: {
    rows: () => selected('distances').filter((row) => row.from_miles !== null),
    says: (rows) => {
      const [first] = sumsBy(rows, 'distance_band', 'trips', 'fare_amount');
      return `The usual trip is ${first.distance_band} miles long and costs ${money(first.fare_amount / first.trips)}`;
    },
  },
  tips_by_distance: {
    rows: () => selected('distances').filter((row) => row.from_miles !== null && row.card_fare_amount > 0),
    says: (rows) => {
      const bands = sumsBy(rows, 'distance_band', 'card_fare_amount', 'card_tip_amount');
      const best = largest(bands.map((row) => ({...row, share: row.card_tip_amount / row.card_fare_amount})), 'share');
      return `Trips of ${best.distance_band} miles bring the highest tips: ${percent(best.share, 0)} of the fare`;
    },
    nothing: 'No trips paid by card in this selection.',
  },
  quarantine_share: {
    rows: () => selected('quality').map((row) => ({...row, file_month: row.month})),
    says: (rows) => `${percent(quarantined(rows) / Math.max(sum(rows, 'row_count'), 1), 2)} of the rows were quarantined`,
    nothing: 'No files in this selection.',
  },
  quarantine_reasons: {
    rows: () => selected('quality').filter((row) => row.outcome !== 'kept' && row.row_count > 0),
    says: (rows) => {
      const [first] = sumsBy(rows, 'outcome', 'row_count');
      return `“${first.outcome.replaceAll('_', ' ')}” is the reason for ${percent(first.row_count / sum(rows, 'row_count'), 0)}`;
    },
    nothing: 'No rows were quarantined in this selection.',
  },
};

const quarantined = (rows) => sum(rows.filter((row) => row.outcome !== 'kept'), 'row_count');

async function showFigure(id) {
  const {rows, says, nothing} = FIGURES[id];
  const found = rows();
  const place = byId(id);
  if (found.length === 0) {
    forget(id);
    place.className = 'chart nothing';
    place.textContent = nothing ?? 'No trips in this selection.';
    byId(`${id}-says`).textContent = 'No data';
    return;
  }
  byId(`${id}-says`).textContent = says(found);
  const tables = {[id]: found, ...(id === 'zone_map' && {shapes: SHAPES.filter((shape) => inBorough(shape.properties))})};
  if (!views.has(id)) views.set(id, await embed(id, tables));
  const view = views.get(id);
  Object.entries(tables).forEach(([name, table]) => view.data(name, table));
  await view.runAsync();
}

async function embed(id, tables) {
  const place = byId(id);
  place.className = 'chart';
  place.textContent = '';
  const chart = {...CHARTS[id], datasets: tables};
  if (id === 'zone_map') chart.height = Math.min(chart.height, place.clientWidth);
  const {view} = await vegaEmbed(place, chart, {actions: false, renderer: 'svg', config: LOOKS[look()]});
  return view;
}

function forget(id) {
  views.get(id)?.finalize();
  views.delete(id);
}

// -- tiles, list and table ------------------------------------------------------------------------

function tiles() {
  const fares = selected('payments');
  const trips = sum(fares, 'trips');
  const charged = sum(fares, 'total_amount');
  const card = fares.filter((row) => row.payment === 'card');
  const airports = selected('airports');
  const [from, to] = ['from', 'to'].map((way) => sum(airports.filter((row) => row.direction === way), 'trips'));
  const quality = selected('quality');
  const rows = sum(quality, 'row_count');
  const share = (part, whole, digits) => (whole > 0 ? percent(part / whole, digits) : '–');
  const each = (amount) => (trips > 0 ? money(amount / trips) : '–');
  return [
    ['trips', 'Trips', trips, short(trips), trips > 0 ? `${short(perDay(fares))} a day` : ''],
    ['charged', 'Charged in all', charged, `$${short(charged)}`, `${each(charged)} a trip, with tips and fees`],
    ['fare', 'Average fare', trips > 0 ? sum(fares, 'fare_amount') / trips : 0, each(sum(fares, 'fare_amount')), 'a trip, by the meter'],
    ['tip', 'Tip on card fares', sum(card, 'tip_amount') / sum(card, 'fare_amount') || 0, share(sum(card, 'tip_amount'), sum(card, 'fare_amount')), 'of the fare; cash tips are not recorded'],
    ['airport', 'Airport share', (from + to) / trips || 0, share(from + to, trips), `${share(from, trips)} from, ${share(to, trips)} to one; from one to another counts twice`],
    ['quarantined', 'Quarantined', quarantined(quality) / rows || 0, share(quarantined(quality), rows, 2), `${short(quarantined(quality))} of ${short(rows)} rows`],
  ];
}

/** Trips on an average day. Services may have different months: each is averaged over its own. */
function perDay(fares) {
  return services().reduce((total, service) => {
    const own = fares.filter((row) => row.service === service);
    const months = [...new Set(own.map((row) => row.month))];
    const days = months.reduce((all, month) => all + weekdaysIn(month).reduce((one, other) => one + other, 0), 0);
    return days > 0 ? total + sum(own, 'trips') / days : total;
  }, 0);
}

function showTiles() {
  byId('tiles').replaceChildren(
    ...tiles().map(([name, title, value, figure, besides]) => {
      const exact = element('data', {value, title: number(value, Number.isInteger(value) ? 0 : 4)}, figure);
      return element('div', {class: 'tile', id: `tile-${name}`},
        element('dt', {}, title),
        element('dd', {class: 'figure'}, exact),
        element('dd', {class: 'besides'}, besides),
      );
    }),
  );
}

function showBusiest() {
  const zones = zonePickups().filter(inBorough).slice(0, BUSIEST);
  byId('busiest-title').textContent =
    selection.borough === EVERYWHERE ? 'Busiest zones' : `Busiest zones of ${selection.borough}`;
  byId('busiest').replaceChildren(
    ...zones.map((zone) =>
      element('li', {},
        element('span', {class: 'zone', title: zone.zone}, zone.zone),
        element('span', {class: 'trips'}, `${number(zone.trips)} `, element('span', {class: 'share'}, percent(zone.share))),
        element('span', {class: 'bar', style: `width: ${(100 * zone.trips) / zones[0].trips}%`}),
      ),
    ),
  );
}

function showFreshness() {
  const rows = DATA.freshness.filter((row) => services().includes(row.service));
  const [newest] = rows.map((row) => row.newest_file).sort().slice(-1);
  byId('freshness-says').textContent = newest ? `The newest file is that of ${monthWords(newest)}` : 'No data';
  byId('freshness').tBodies[0].replaceChildren(
    ...rows.map((row) =>
      element('tr', {},
        element('th', {scope: 'row'}, element('i', {class: `dot ${row.service}`}), row.service),
        element('td', {}, monthWords(row.newest_file)),
        element('td', {}, `${dayWords(row.loaded_at)}, ${row.loaded_at.slice(11)} UTC`),
        element('td', {}, row.newest_pickup ? `${dayWords(row.newest_pickup)}, after ${row.newest_pickup.slice(11)}` : '–'),
      ),
    ),
  );
}

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  made.append(...children);
  return made;
}

// -- selection ------------------------------------------------------------------------------------

function fillSelects() {
  const options = (values, words) => values.map((value) => element('option', {value}, words(value)));
  byId('from').replaceChildren(...options(MONTHS, monthWords));
  byId('to').replaceChildren(...options(MONTHS, monthWords));
  const boroughs = [...new Set(SHAPES.map((shape) => shape.properties.borough))].sort();
  byId('borough').replaceChildren(...options([EVERYWHERE, ...boroughs], (borough) => (borough === 'EWR' ? 'Newark Airport (EWR)' : borough)));
}

/** Take from the address what it says and is possible; the rest stays as it is at first. */
function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const take = (name, possible, otherwise) => (possible.includes(wanted.get(name)) ? wanted.get(name) : otherwise);
  selection.from = take('from', MONTHS, MONTHS[0]);
  selection.to = take('to', MONTHS, MONTHS.at(-1));
  if (selection.from > selection.to) selection.to = selection.from;
  selection.service = take('service', SERVICES, 'both');
  selection.borough = take('borough', [...byId('borough').options].map((option) => option.value), EVERYWHERE);
}

function showControls() {
  ['from', 'to', 'borough'].forEach((name) => (byId(name).value = selection[name]));
  byId('toolbar').elements.service.value = selection.service;
}

function choose(changes) {
  Object.assign(selection, changes);
  history.replaceState(null, '', `#${new URLSearchParams(selection)}`);
  show();
}

function listen() {
  // Who sets one end beyond the other means that month alone.
  byId('from').addEventListener('change', ({target: {value}}) =>
    choose({from: value, to: value > selection.to ? value : selection.to}));
  byId('to').addEventListener('change', ({target: {value}}) =>
    choose({to: value, from: value < selection.from ? value : selection.from}));
  byId('toolbar').elements.service.forEach((radio) =>
    radio.addEventListener('change', () => choose({service: radio.value})));
  byId('borough').addEventListener('change', ({target: {value}}) => choose({borough: value}));
  byId('theme').addEventListener('click', () => {
    document.documentElement.style.colorScheme = look() === 'dark' ? 'light' : 'dark';
    redraw();
  });
  DARK.addEventListener('change', redraw);
  window.addEventListener('hashchange', () => {
    readAddress();
    show();
  });
}

// -- showing --------------------------------------------------------------------------------------

const look = () => document.documentElement.style.colorScheme || (DARK.matches ? 'dark' : 'light');

/** One after the other: a change made while charts are still being drawn must not be drawn over by what was before. */
let drawing = Promise.resolve();

function show() {
  showControls();
  showTiles();
  showBusiest();
  showFreshness();
  const months = selection.from === selection.to ? monthWords(selection.from) : `${monthWords(selection.from)} to ${monthWords(selection.to)}`;
  byId('selection').textContent = `Showing ${months}, ${services().join(' and ')}.`;
  document.body.setAttribute('aria-busy', 'true');
  drawing = drawing.then(drawFigures);
}

/** A figure that cannot be drawn must not keep the others, or the next choice, from being drawn. */
async function drawFigures() {
  for (const id of Object.keys(FIGURES)) await showFigure(id).catch(console.error);
  document.body.setAttribute('aria-busy', 'false');
}

function redraw() {
  document.body.setAttribute('aria-busy', 'true');
  drawing = drawing.then(() => [...views.keys()].forEach(forget)).then(drawFigures);
}

if (MONTHS.length > 0) {
  fillSelects();
  readAddress();
  listen();
  show();
}
