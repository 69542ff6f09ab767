//! For each scenario: latencies of all servers on the left, and on the right how even their workers' busy time is over
//! time.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Latency, Report, Table};
use crate::panel::Area;

const WIDTH: u32 = 1160;
const HEIGHT: u32 = 300;
const SPLIT: u32 = 560;
const NAME: i32 = 110;
const LINES: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
const IDEAL: RGBColor = RGBColor(0x99, 0x99, 0x99);
const COLORS: [RGBColor; 8] = [
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0x55, 0x55, 0x55),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x8c, 0x56, 0x4b),
    RGBColor(0x17, 0xbe, 0xcf),
];

/// Larger ratios are drawn at the edge.
const RATIO_MAX: f64 = 3.0;

/// Draws the chart into a file.
pub(super) fn draw(path: &Path, report: &Report) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (WIDTH, HEIGHT * report.tables.len().max(1) as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (table, area) in report.tables.iter().zip(root.split_evenly((report.tables.len().max(1), 1))) {
        let title = format!("{} (simulated cores)", table.scenario);
        area.draw_text(&title, &("sans-serif", 15).into_font().color(&BLACK), (12, 8))?;
        let (left, right) = area.margin(28, 4, 0, 0).split_horizontally(SPLIT);
        draw_latencies(&left, table)?;
        draw_busy(&right, table)?;
    }
    root.present()?;
    Ok(())
}

/// p50, p99 and p99.9 of each on a line, on a logarithmic scale.
fn draw_latencies(area: &Area<'_>, table: &Table) -> Result<(), Box<dyn Error>> {
    let ideals = [("one queue", table.ideal.shared), ("fair parts", table.ideal.parts)];
    let mut rows: Vec<(String, Latency, RGBColor)> =
        ideals.iter().map(|(name, latency)| (format!("({name})"), *latency, IDEAL)).collect();
    let servers = table.rows.iter().zip(COLORS.iter().cycle());
    rows.extend(servers.map(|(row, color)| (row.server.clone(), row.latency_ms, *color)));
    let least = rows.iter().map(|(_, latency, _)| latency.p50).fold(f64::MAX, f64::min).max(0.01) * 0.8;
    let most = rows.iter().map(|(_, latency, _)| latency.p99_9).fold(least * 10.0, f64::max) * 1.3;
    let room = f64::from(SPLIT as i32 - NAME - 30);
    let x = |ms: f64| NAME + 10 + ((ms.max(least) / least).ln() / (most / least).ln() * room) as i32;
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    let step = ((HEIGHT as i32 - 84) / rows.len().max(1) as i32).min(26);
    let bottom = 22 + step * rows.len() as i32;
    area.draw_text("latency from when it was due, ms: p50 | p99 | p99.9", &text(11), (NAME + 10, 0))?;
    let mut mark = 10.0_f64.powf(least.log10().ceil());
    while mark < most {
        area.draw(&PathElement::new([(x(mark), 18), (x(mark), bottom)], LINES.stroke_width(1)))?;
        area.draw_text(&mark.to_string(), &text(11).pos(Pos::new(HPos::Center, VPos::Top)), (x(mark), bottom + 3))?;
        mark *= 10.0;
    }
    let right = text(12).pos(Pos::new(HPos::Right, VPos::Center));
    for (index, (name, latency, color)) in rows.iter().enumerate() {
        let y = 22 + step * index as i32 + step / 2;
        area.draw_text(name, &right, (NAME, y))?;
        area.draw(&PathElement::new([(x(latency.p50), y), (x(latency.p99_9), y)], color.stroke_width(2)))?;
        area.draw(&Circle::new((x(latency.p50), y), 3, color.filled()))?;
        area.draw(&Rectangle::new([(x(latency.p99) - 3, y - 6), (x(latency.p99) + 3, y + 6)], color.filled()))?;
        area.draw(&Circle::new((x(latency.p99_9), y), 4, color.stroke_width(2)))?;
    }
    Ok(())
}

fn draw_busy(area: &Area<'_>, table: &Table) -> Result<(), Box<dyn Error>> {
    let end = table.rows.iter().map(|row| row.measured_s.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("max / mean of workers' busy time in the last second", ("sans-serif", 12))
        .margin_right(14)
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..end, 1.0..RATIO_MAX)?;
    chart.configure_mesh().light_line_style(WHITE).bold_line_style(LINES).x_desc("seconds").y_labels(5).draw()?;
    for (row, color) in table.rows.iter().zip(COLORS.iter().cycle()) {
        if row.evenness.busy.is_empty() {
            continue;
        }
        let points = row.evenness.busy.iter().map(|(at, ratio)| (*at, ratio.min(RATIO_MAX)));
        chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
    }
    let best = [(0.0, table.ideal.busy.min(RATIO_MAX)), (end, table.ideal.busy.min(RATIO_MAX))];
    chart.draw_series(LineSeries::new(best, IDEAL.stroke_width(1)))?;
    Ok(())
}
