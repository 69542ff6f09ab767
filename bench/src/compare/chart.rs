//! Bars: a panel for each workload, a bar for each server, relative to the first.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::catalogue::BATON;
use super::report::{Comparison, Measure, Table};
use crate::panel::Area;

const COLUMNS: usize = 2;
const WIDTH: u32 = 1040;
const BAR: i32 = 20;
const HEADING: i32 = 54;
const NAME: i32 = 104;
const FIGURE: i32 = 90;
const OURS: RGBColor = RGBColor(0xd6, 0x27, 0x28);
const BARE: RGBColor = RGBColor(0xaa, 0xaa, 0xaa);
const OTHERS: RGBColor = RGBColor(0x6b, 0x9b, 0xc7);

/// Draws the chart into a file.
pub(super) fn draw(path: &Path, comparison: &Comparison) -> Result<(), Box<dyn Error>> {
    let heights: Vec<i32> =
        comparison.tables.chunks(COLUMNS).map(|row| row.iter().map(height).max().unwrap_or(0)).collect();
    let root = SVGBackend::new(path, (WIDTH, heights.iter().sum::<i32>().max(60) as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut top = 0;
    for (row, height) in comparison.tables.chunks(COLUMNS).zip(heights) {
        for (column, table) in row.iter().enumerate() {
            let width = WIDTH as i32 / COLUMNS as i32;
            draw_panel(&root, table, (column as i32 * width, top), width)?;
        }
        top += height;
    }
    root.present()?;
    Ok(())
}

fn height(table: &Table) -> i32 {
    HEADING + table.rows.len() as i32 * BAR + 12
}

fn draw_panel(area: &Area<'_>, table: &Table, (left, top): (i32, i32), width: i32) -> Result<(), Box<dyn Error>> {
    let unit = match table.measure {
        Measure::PerCpuSecond => "1,000 requests per second of server CPU time; more is better",
        Measure::BytesPerConnection => "bytes of the process for each connection; less is better",
        Measure::Latency => "99.9th percentile, ms; less is better",
    };
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    area.draw_text(&table.title, &text(16), (left + 12, top + 10))?;
    area.draw_text(unit, &text(11), (left + 12, top + 32))?;
    let mut rows: Vec<_> = table.rows.iter().filter_map(|row| Some((row, table.figure(row)?))).collect();
    rows.sort_by(|(_, one), (_, other)| match table.measure {
        Measure::PerCpuSecond => other.median.total_cmp(&one.median),
        Measure::BytesPerConnection | Measure::Latency => one.median.total_cmp(&other.median),
    });
    // If one bar is far longer than all others, it is cut instead of making the others invisible.
    let middle = rows.get(rows.len() / 2).map_or(1.0, |(_, figure)| figure.median);
    let longest = rows.iter().map(|(_, figure)| figure.max).fold(0.0, f64::max).min(middle * 6.0).max(1e-9);
    let room = width - NAME - FIGURE - 24;
    let x = |value: f64| left + NAME + (value.min(longest) / longest * f64::from(room)) as i32;
    let right = text(12).pos(Pos::new(HPos::Right, VPos::Center));
    let after = text(12).pos(Pos::new(HPos::Left, VPos::Center));
    for (index, (row, figure)) in rows.iter().enumerate() {
        let y = top + HEADING + index as i32 * BAR;
        let color = match row.name.as_str() {
            BATON => OURS,
            name if name.starts_with("bare") => BARE,
            _ => OTHERS,
        };
        area.draw_text(&row.name, &right, (left + NAME - 8, y + BAR / 2 - 1))?;
        area.draw(&Rectangle::new([(x(0.0), y + 2), (x(figure.median), y + BAR - 3)], color.filled()))?;
        let whisker = [(x(figure.min), y + BAR / 2 - 1), (x(figure.max), y + BAR / 2 - 1)];
        area.draw(&PathElement::new(whisker, BLACK.stroke_width(1)))?;
        let unit = if table.measure == Measure::BytesPerConnection { 1.0 } else { 1e3 };
        let value = figure.median / unit;
        let value = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
        let ratio = row.to_first.map_or(String::new(), |ratio| format!(" ({:.2})", ratio.median));
        let end = x(figure.median.max(figure.max)) + 6;
        area.draw_text(&format!("{value}{ratio}"), &after, (end, y + BAR / 2 - 1))?;
    }
    Ok(())
}
