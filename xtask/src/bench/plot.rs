//! The instructions of each exit as bars, on a logarithmic scale: a decoded MMIO access costs many times a CPUID.
//!
//! There is no background, and text is grey, so that a dark page shows it as well as a white one.

use anyhow::{Result, anyhow};
use plotters::style::Color;
use plotters::{
    element::{Rectangle, Text},
    prelude::{DrawingBackend, IntoDrawingArea, IntoFont, RGBColor, SVGBackend, ShapeStyle},
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    host::Subject,
    report::{HostReport, RowReport},
};

const WIDTH: i32 = 860;
const LABELS: i32 = 230;
/// Room for the number after the longest bar.
const NUMBERS: i32 = 70;
const BAR: i32 = 9;
const GAP: i32 = 8;
const TOP: i32 = 40;
const TEXT: RGBColor = RGBColor(128, 128, 128);
const SUBJECTS: [(Subject, RGBColor); 3] = [
    (Subject::ThisCrate, RGBColor(46, 134, 222)),
    (Subject::Registry, RGBColor(230, 126, 34)),
    (Subject::LowerBound, RGBColor(149, 165, 166)),
];
/// The scale begins at this many instructions.
const FIRST: f64 = 10.0;

/// The rows of one caller, as an SVG file.
pub fn svg(report: &HostReport, caller: &str) -> Result<String> {
    let rows: Vec<_> = report.rows.iter().filter(|row| row.caller == caller && !bars(row).is_empty()).collect();
    let bar_count: usize = rows.iter().map(|row| bars(row).len()).sum();
    let height = TOP + bar_count as i32 * BAR + rows.len() as i32 * GAP + GAP;
    let longest = rows.iter().flat_map(|row| bars(row)).map(|(count, _)| count).max().unwrap_or(1);
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH as u32, height as u32)).into_drawing_area();
        let draw = Drawing { area: &area };
        for (index, (subject, color)) in SUBJECTS.into_iter().enumerate() {
            let x = LABELS + index as i32 * 210;
            draw.bar(x, 14, 10, color)?;
            draw.text(subject.name(), x + 16, 14 + BAR / 2, HPos::Left)?;
        }
        let mut y = TOP;
        for row in rows {
            let bars = bars(row);
            draw.text(&row.exit, LABELS - 8, y + bars.len() as i32 * BAR / 2, HPos::Right)?;
            for (count, color) in bars {
                let part = (count as f64 / FIRST).ln() / (longest as f64 / FIRST).ln();
                let length = (f64::from(WIDTH - LABELS - NUMBERS) * part).max(1.0) as i32;
                draw.bar(LABELS, y, length, color)?;
                draw.text(&count.to_string(), LABELS + length + 4, y + BAR / 2, HPos::Left)?;
                y += BAR;
            }
            y += GAP;
        }
        area.present().map_err(|error| anyhow!("the plot: {error}"))?;
    }
    Ok(text)
}

fn bars(row: &RowReport) -> Vec<(usize, RGBColor)> {
    let count = |(subject, color)| row.of(subject).map(|measurement| (measurement.counts.instructions, color));
    SUBJECTS.into_iter().filter_map(count).collect()
}

struct Drawing<'a, B: DrawingBackend> {
    area: &'a plotters::drawing::DrawingArea<B, plotters::coord::Shift>,
}

impl<B: DrawingBackend> Drawing<'_, B> {
    fn bar(&self, x: i32, y: i32, length: i32, color: RGBColor) -> Result<()> {
        let style: ShapeStyle = color.filled();
        let bar = Rectangle::new([(x, y), (x + length, y + BAR - 1)], style);
        self.area.draw(&bar).map_err(|error| anyhow!("the plot: {error}"))
    }

    fn text(&self, text: &str, x: i32, y: i32, place: HPos) -> Result<()> {
        let style = ("sans-serif", 11).into_font().color(&TEXT).pos(Pos::new(place, VPos::Center));
        self.area.draw(&Text::new(text, (x, y), style)).map_err(|error| anyhow!("the plot: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{count::Counts, report::Measurement, trace::Ticks};

    #[test]
    fn every_count_of_the_caller_is_in_the_plot() {
        let ticks = Ticks { min: 1, median: 1, max: 1, rounds: 1 };
        let measured = |instructions| {
            let counts = Counts { instructions, ..Counts::default() };
            Ok(Measurement { counts, ticks, cycles: None })
        };
        let row = |caller: &str, this_crate, lower_bound| RowReport {
            caller: caller.to_owned(),
            exit: "CPUID".to_owned(),
            measured: vec![
                (Subject::ThisCrate, measured(this_crate)),
                (Subject::Registry, Err("panics".to_owned())),
                (Subject::LowerBound, measured(lower_bound)),
            ],
        };
        let rows = vec![row("bound", 12_345, 4), row("bind and unbind per exit", 777, 66)];
        let svg = svg(&HostReport { host: "with SSE", model: "any", rows }, "bound").expect("a plot");
        assert!(svg.starts_with("<svg"), "{svg}");
        assert!(svg.contains("CPUID") && svg.contains("12345") && svg.contains("\n4\n"), "{svg}");
        assert!(!svg.contains("777"), "{svg}");
    }
}
