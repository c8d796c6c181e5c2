//! The results as a picture: one bar for each case, with its target.

use std::fmt::Write as _;

use super::report::Judged;

const ROW: usize = 24;
const TOP: usize = 44;
const LEFT: usize = 350;
const RIGHT: usize = 90;
const WIDTH: usize = 960;
/// The end of the scale, ns; what is longer is cut and says so by its figure.
const SCALE: f64 = 300.0;
const MET: &str = "#2a7f62";
const MISSED: &str = "#b3413b";

/// An SVG file of the figures, which are ns.
pub fn svg(figures: &[Judged], caption: &str) -> String {
    let height = TOP + figures.len() * ROW + 72;
    let bars = (WIDTH - LEFT - RIGHT) as f64;
    let x = |ns: f64| LEFT as f64 + bars * (ns.clamp(0.0, SCALE) / SCALE);
    let foot = format!(
        "{}. Thin lines: least to most of the rounds. <tspan fill=\"{MET}\">Target met</tspan>, \
         <tspan fill=\"{MISSED}\">target missed</tspan>, no target.",
        escape(caption)
    );
    let mut svg = begin(height, "ns per packet, the program's own", &foot);
    ticks(&mut svg, &x, (SCALE, 6), (40, height - 62));
    for (number, judged) in figures.iter().enumerate() {
        bar(&mut svg, judged, TOP + number * ROW, &x);
    }
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, judged: &Judged, y: usize, x: &impl Fn(f64) -> f64) {
    let colour = match judged.met {
        Some(true) => MET,
        Some(false) => MISSED,
        None => "#7a8794",
    };
    let (start, end) = (x(0.0), x(judged.figure));
    let middle = y + ROW / 2;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#1a1a1a\">{}</text>\
         <rect x=\"{start:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
         <text x=\"{:.1}\" y=\"{}\" fill=\"#1a1a1a\">{}{:.0}</text>",
        LEFT - 8,
        middle + 4,
        escape(&judged.name),
        y + 4,
        (end - start).max(1.0),
        ROW - 8,
        x(judged.figure.max(judged.between.map_or(0.0, |(_, most)| most))) + 6.0,
        middle + 4,
        if judged.figure > SCALE { "… " } else { "" },
        judged.figure
    );
    if let Some((least, most)) = judged.between {
        let _ = writeln!(
            svg,
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#1a1a1a\"/>",
            x(least),
            x(most)
        );
    }
}

/// An SVG file of how long clients went without an answer: for each kind of node, what part of all
/// gaps was no longer than so many ms.
pub fn gaps(series: &[(String, &[f64])], caption: &str) -> String {
    const HEIGHT: usize = 360;
    const COLOURS: [&str; 2] = [MET, "#3b5bb3"];
    /// The end of the scale, ms, and what is aimed at.
    const END: f64 = 500.0;
    const TARGET: f64 = 250.0;
    const TOP_EDGE: usize = 50;
    const BOTTOM_EDGE: usize = 290;
    let (left, right) = (70.0, 880.0);
    let (top, bottom) = (TOP_EDGE as f64, BOTTOM_EDGE as f64);
    let x = |ms: f64| left + (right - left) * (ms.clamp(0.0, END) / END);
    let y = |part: f64| bottom - (bottom - top) * part;
    let foot = format!("{}. Dashed: the target for 99 of 100.", escape(caption));
    let title =
        "Longest gap of a client when a node's link is cut: part of all gaps up to so many ms";
    let mut svg = begin(HEIGHT, title, &foot);
    ticks(&mut svg, &x, (END, 10), (TOP_EDGE, BOTTOM_EDGE));
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"end\" fill=\"#666666\">{:.0} %</text>",
            left - 8.0,
            y(part) + 4.0,
            part * 100.0
        );
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"{MISSED}\" stroke-dasharray=\"5 4\"/>",
        x(TARGET)
    );
    for (number, (name, gaps)) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let mut path = format!("M {:.1} {:.1}", x(0.0), y(0.0));
        for (count, gap) in gaps.iter().enumerate() {
            let part = |count: usize| count as f64 / gaps.len() as f64;
            let _ = write!(path, " L {:.1} {:.1}", x(*gap), y(part(count)));
            let _ = write!(path, " L {:.1} {:.1}", x(*gap), y(part(count + 1)));
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path} L {right} {top}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{colour}\">{} ({} gaps)</text>",
            x(TARGET) + 24.0,
            bottom - 40.0 + number as f64 * 20.0,
            escape(name),
            gaps.len()
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// The beginning of a picture: its title, and what stands at its foot.
fn begin(height: usize, title: &str, foot: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" fill=\"#1a1a1a\">{title}</text>\n\
         <text x=\"16\" y=\"{}\" font-size=\"11\" fill=\"#666666\">{foot}</text>\n",
        height - 14
    )
}

/// Lines across the scale from 0 to `end`, so many steps apart, between two heights, and their numbers.
fn ticks(
    svg: &mut String,
    x: &impl Fn(f64) -> f64,
    (end, steps): (f64, u32),
    (top, bottom): (usize, usize),
) {
    for tick in (0..=steps).map(|n| f64::from(n) * end / f64::from(steps)) {
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{0:.1}\" y=\"{1}\" font-size=\"11\" text-anchor=\"middle\" fill=\"#666666\">{tick:.0}</text>",
            x(tick),
            bottom + 16
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
