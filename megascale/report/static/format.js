// Numbers as Python prints them, and counts as the command line reads them.

// Digits and exponent of a positive number, rounded half to even on its exact decimal value.
function roundedDigits(value, digits) {
  const [mantissa, exponent] = value.toExponential(60).split("e");
  const all = mantissa.replace(".", "");
  let kept = all.slice(0, digits);
  const rest = all.slice(digits);
  let power = Number(exponent);
  const half = "5".padEnd(rest.length, "0");
  const up = rest > half || (rest === half && Number(kept[kept.length - 1]) % 2 === 1);
  if (up) {
    kept = (BigInt(kept) + 1n).toString();
    if (kept.length > digits) {
      kept = kept.slice(0, digits);
      power += 1;
    }
  }
  return [kept, power];
}

function exponentText(power) {
  return (power < 0 ? "-" : "+") + String(Math.abs(power)).padStart(2, "0");
}

function withPoint(digits, places) {
  return places > 0 ? digits.slice(0, -places) + "." + digits.slice(-places) : digits;
}

function scientific(value, places) {
  if (value === 0) return withPoint("0".repeat(places + 1), places) + "e+00";
  const [digits, power] = roundedDigits(value, places + 1);
  return withPoint(digits, places) + "e" + exponentText(power);
}

function general(value, precision) {
  if (value === 0) return "0";
  const [digits, power] = roundedDigits(value, precision);
  const short = digits.replace(/0+$/, "") || "0";
  if (power < -4 || power >= precision) {
    return withPoint(short, short.length - 1) + "e" + exponentText(power);
  }
  if (power < 0) return "0." + "0".repeat(-power - 1) + short;
  return short.length <= power + 1
    ? short.padEnd(power + 1, "0")
    : short.slice(0, power + 1) + "." + short.slice(power + 1);
}

function grouped(value) {
  const below = Math.floor(value);
  const rest = value - below;
  const whole = rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
  return BigInt(whole).toString().replace(/\B(?=(\d{3})+$)/g, ",");
}

// Python's format() for the specs that the command line uses: .2e, .3g, ,.0f and the like.
function formatNumber(value, spec) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (!Number.isFinite(value)) return value < 0 ? "-inf" : "inf";
  if (value < 0) return "-" + formatNumber(-value, spec);
  if (spec === ",.0f" || spec === ",") return grouped(value);
  const found = /^\.(\d+)([eg])$/.exec(spec);
  const precision = Number(found[1]);
  return found[2] === "e" ? scientific(value, precision) : general(value, precision);
}

const COUNT_SUFFIXES = {
  "": 1n, K: 10n ** 3n, M: 10n ** 6n, B: 10n ** 9n, T: 10n ** 12n,
  Ki: 2n ** 10n, Mi: 2n ** 20n, Gi: 2n ** 30n, Ti: 2n ** 40n,
};

// A count such as 4096, 2M, 500e9 or 4Mi as an exact whole number.
function readCount(text, key) {
  const rule = `${key}: a whole number such as 4096, 4_194_304, 2M, 125B, 1.5M or 4Mi`;
  const found = /^\+?([0-9][0-9_]*)(?:\.([0-9]+))?(?:[eE]\+?([0-9]{1,2}))?\s*([A-Za-z]*)$/.exec(
    text.trim()
  );
  if (!found || !(found[4] in COUNT_SUFFIXES)) throw new Error(rule);
  const fraction = found[2] || "";
  let whole = BigInt(found[1].replaceAll("_", "") + fraction);
  whole *= COUNT_SUFFIXES[found[4]] * 10n ** BigInt(found[3] || 0);
  const unit = 10n ** BigInt(fraction.length);
  if (whole % unit !== 0n) throw new Error(rule);
  const value = Number(whole / unit);
  if (value > Number.MAX_SAFE_INTEGER) throw new Error(`${key}: too large to be exact here`);
  return value;
}

function readReal(text, key) {
  const value = Number(text.trim());
  if (!text.trim() || !(value > 0) || !Number.isFinite(value)) {
    throw new Error(`${key}: must be a positive number`);
  }
  return value;
}

// A count as the command line shortens it: 999, 12.35M, 1.5T; parts of one to four digits.
function shortCount(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "";
  const size = Math.abs(value);
  if (size >= 1e16) return formatNumber(value, ".2e");
  for (const [suffix, scale] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["K", 1e3]]) {
    if (size >= scale) return formatNumber(value / scale, ".4g") + suffix;
  }
  return size === 0 || size >= 1e-3 ? formatNumber(value, ".4g") : formatNumber(value, ".2e");
}
