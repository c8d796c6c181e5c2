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
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" fill=\"#1a1a1a\">\
         ns per packet, the program's own</text>\n\
         <text x=\"16\" y=\"{}\" font-size=\"11\" fill=\"#666666\">{}. Thin lines: least to most of \
         the rounds. <tspan fill=\"{MET}\">Target met</tspan>, \
         <tspan fill=\"{MISSED}\">target missed</tspan>, no target.</text>",
        height - 14,
        escape(caption)
    );
    for tick in (0..=6).map(|n| f64::from(n) * SCALE / 6.0) {
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"40\" y2=\"{1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{0:.1}\" y=\"{2}\" font-size=\"11\" text-anchor=\"middle\" fill=\"#666666\">{3:.0}</text>",
            x(tick),
            height - 62,
            height - 46,
            tick
        );
    }
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
