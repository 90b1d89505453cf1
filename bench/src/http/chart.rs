//! Charts as SVG, drawn here: a report has to be readable without anything but itself.

use std::fmt::Write as _;

/// A bar with its interval.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) colour: &'static str,
}

/// A line of points, by rising `x`.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) label: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) colour: &'static str,
    pub(crate) dashed: bool,
}

const WIDTH: f64 = 620.0;
const NAMES: f64 = 170.0;
const ROW: f64 = 22.0;
/// Room at the right for figures.
const FIGURES: f64 = 90.0;

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Horizontal bars from zero, each with its interval as a whisker.
pub(crate) fn bars(title: &str, bars: &[Bar], show: impl Fn(f64) -> String) -> String {
    let most = bars.iter().map(|bar| bar.high.max(bar.value)).fold(0.0, f64::max);
    let height = 30.0 + ROW * bars.len() as f64;
    let mut svg = open(title, height);
    let scale = |value: f64| if most > 0.0 { value.max(0.0) / most * (WIDTH - NAMES - FIGURES) } else { 0.0 };
    for (number, bar) in bars.iter().enumerate() {
        let y = 26.0 + ROW * number as f64;
        let middle = y + ROW / 2.0 - 1.0;
        let (length, low, high) = (scale(bar.value), NAMES + scale(bar.low), NAMES + scale(bar.high));
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{NAMES}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"14\" fill=\"{}\"/>\
             <path class=\"whisker\" d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v6M{high:.1} {:.1}v6\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            NAMES - 6.0,
            middle + 4.0,
            escape(&bar.label),
            middle - 7.0,
            bar.colour,
            middle - 3.0,
            middle - 3.0,
            high.max(NAMES + length) + 6.0,
            middle + 4.0,
            escape(&show(bar.value)),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Marks of an axis: where, and what stands there.
pub(crate) type Marks = Vec<(f64, String)>;

/// Lines over logarithmic axes; `marks` are those of the x axis, in its own units.
pub(crate) fn lines(title: &str, lines: &[Line], marks: &Marks, show: impl Fn(f64) -> String) -> String {
    const HEIGHT: f64 = 300.0;
    let plot = Plot::around(lines, marks);
    let mut svg = open(title, HEIGHT + 20.0 + 16.0 * lines.len().div_ceil(3) as f64);
    for value in decades(plot.bottom, plot.top) {
        let y = plot.y(value);
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M72 {y:.1}H{:.1}\"/><text x=\"66\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - 28.0,
            y + 4.0,
            escape(&show(value))
        );
    }
    for (place, name) in marks {
        let x = plot.x(*place);
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{x:.1} 30V270\"/><text x=\"{x:.1}\" y=\"286\" text-anchor=\"middle\">{}</text>",
            escape(name)
        );
    }
    for (number, line) in lines.iter().enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", plot.x(*x), plot.y(*y))).collect();
        let dash = if line.dashed { " stroke-dasharray=\"5 3\"" } else { "" };
        let (x, y) = (40.0 + 190.0 * (number % 3) as f64, 308.0 + 16.0 * (number / 3) as f64);
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dash}/>\
             <path d=\"M{x:.1} {:.1}h18\" stroke=\"{}\" stroke-width=\"3\"{dash}/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
            points.join(" "),
            line.colour,
            y - 4.0,
            line.colour,
            x + 24.0,
            escape(&line.label)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// From values to places; both axes are logarithmic.
struct Plot {
    left: f64,
    right: f64,
    bottom: f64,
    top: f64,
}

impl Plot {
    fn around(lines: &[Line], marks: &Marks) -> Self {
        let points = || lines.iter().flat_map(|line| &line.points).copied();
        let all = || points().map(|(x, _)| x).chain(marks.iter().map(|(x, _)| *x)).filter(|x| *x > 0.0);
        let values = || points().map(|(_, y)| y).filter(|y| *y > 0.0);
        let low = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let high = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let (bottom, top) = (low(&mut values()), high(&mut values()));
        Self { left: low(&mut all()), right: high(&mut all()), bottom: bottom / 1.3, top: top * 1.3 }
    }

    fn x(&self, value: f64) -> f64 {
        72.0 + share(value, self.left, self.right) * (WIDTH - 100.0)
    }

    fn y(&self, value: f64) -> f64 {
        270.0 - share(value, self.bottom, self.top) * 240.0
    }
}

/// How far `value` is from `low` to `high`, 0 to 1, by logarithm.
fn share(value: f64, low: f64, high: f64) -> f64 {
    let share = (value / low).ln() / (high / low).ln();
    if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.5 }
}

/// 1, 2 and 5 of each power of ten, and fewer where that would be many.
fn decades(low: f64, high: f64) -> Vec<f64> {
    if !(low > 0.0 && high.is_finite() && high > low) {
        return Vec::new();
    }
    let steps: &[f64] = if high / low > 200.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = (first..=last).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
    all.filter(|value| (low..=high).contains(value)).collect()
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\"><text class=\"title\" x=\"0\" y=\"16\">{title}</text>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |label: &str, value: f64| Bar {
            label: label.into(),
            value,
            low: value,
            high: value,
            colour: "red",
        };
        let svg = bars("a < b", &[bar("x", 100.0), bar("y & z", 50.0)], |value| format!("{value}"));
        let widths: Vec<f64> = svg
            .split("<rect")
            .skip(1)
            .map(|part| part.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert!((widths[0] / widths[1] - 2.0).abs() < 0.01, "{widths:?}");
        assert!(svg.contains("a &lt; b") && svg.contains("y &amp; z"));
    }

    #[test]
    fn lines_rise_where_values_do_and_nothing_is_not_a_number() {
        let line = Line {
            label: "l".into(),
            points: vec![(1.0, 10.0), (10.0, 1000.0)],
            colour: "red",
            dashed: true,
        };
        let svg =
            lines("t", &[line], &vec![(1.0, "1".into()), (10.0, "10".into())], |value| format!("{value}"));
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let numbers: Vec<f64> = points.split([' ', ',']).map(|word| word.parse().unwrap()).collect();
        assert!(numbers[2] > numbers[0] && numbers[3] < numbers[1], "{points}");
        for nothing in [lines("t", &[], &vec![], |_| String::new()), bars("t", &[], |_| String::new())] {
            assert!(!nothing.contains("NaN") && !nothing.contains("inf"), "{nothing}");
        }
    }

    #[test]
    fn marks_lie_inside_their_axis() {
        assert_eq!(decades(9.0, 60.0), vec![10.0, 20.0, 50.0]);
        assert_eq!(decades(1.0, 1000.0), vec![1.0, 10.0, 100.0, 1000.0]);
        assert!(decades(0.0, 1.0).is_empty());
    }
}
