//! The picture of a run: the servers' resources over time, quiet points as dots.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use super::report::Report;
use super::watch::Sample;
use crate::panel::{Area, over_time};

const SIZE: (u32, u32) = (1100, 640);
const LINE: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const DOT: RGBColor = RGBColor(0xd6, 0x27, 0x28);

/// The most points of a line: more would not be visible.
const POINTS_MAX: usize = 600;

/// Draws the picture into a file.
pub(super) fn draw(path: &Path, report: &Report) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(SIZE.1 as i32 / 2);
    draw_panel(&upper, report, "memory of both servers, MiB; red: quiet points", |sample| sample.memory_bytes >> 20)?;
    draw_panel(&lower, report, "descriptors of both servers; red: quiet points", |sample| sample.descriptors)?;
    root.present()?;
    Ok(())
}

fn draw_panel(
    area: &Area<'_>,
    report: &Report,
    title: &str,
    value: impl Fn(&Sample) -> u64,
) -> Result<(), Box<dyn Error>> {
    let point = |sample: &Sample| (sample.at_s / 60.0, value(sample) as f64);
    let every = report.samples.len().div_ceil(POINTS_MAX).max(1);
    let line: Vec<(f64, f64)> = report.samples.iter().step_by(every).map(point).collect();
    let dots: Vec<(f64, f64)> = report.quiet.iter().map(point).collect();
    let all = || line.iter().chain(&dots);
    let end = all().map(|(at, _)| *at).fold(0.01, f64::max);
    let top = all().map(|(_, value)| *value).fold(1.0, f64::max) * 1.1;
    let mut chart = over_time(area, title, "minutes", (end, top), (&[], WHITE))?;
    chart.draw_series(LineSeries::new(line, LINE.stroke_width(1)))?;
    chart.draw_series(dots.into_iter().map(|dot| Circle::new(dot, 3, DOT.filled())))?;
    Ok(())
}
