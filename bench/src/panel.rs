//! Pictures and their panels: a title, and axes with a grid. What is drawn over time is drawn in the same way everywhere.

use std::error::Error;
use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::run::group;

/// Of lines between those that have a figure, and of what is not measured.
pub(crate) const GREY: RGBColor = RGBColor(0xee, 0xee, 0xee);

/// Where a panel goes.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A panel of values over time.
pub(crate) type OverTime<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Accepts the file that a picture goes to.
pub(crate) fn svg_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        let is_svg = path.extension().is_some_and(|extension| extension == "svg");
        if is_svg { Ok(path) } else { Err("pictures are SVG only; give a file that ends with .svg") }
    })
}

/// Begins a panel: its title, and room for the figures of both axes.
pub(crate) fn titled<'a, 'b>(area: &'a Area<'b>, title: &str) -> ChartBuilder<'a, 'a, SVGBackend<'b>> {
    let mut panel = ChartBuilder::on(area);
    panel.caption(title, ("sans-serif", 20)).margin(12).x_label_area_size(36).y_label_area_size(64);
    panel
}

/// Draws the axes of values over time, both from 0. Times between two of `bands` are of that colour, behind the grid.
pub(crate) fn over_time<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    time: &str,
    (end, top): (f64, f64),
    (bands, color): (&[(f64, f64)], RGBColor),
) -> Result<OverTime<'a, 'b>, Box<dyn Error>> {
    let mut chart = titled(area, title).build_cartesian_2d(0.0..end, 0.0..top)?;
    chart.draw_series(bands.iter().map(|(from, to)| Rectangle::new([(*from, 0.0), (*to, top)], color.filled())))?;
    chart
        .configure_mesh()
        .x_desc(time)
        .y_label_formatter(&|value| group(*value as u64))
        .light_line_style(GREY)
        .draw()?;
    Ok(chart)
}

/// The mark of a line beside its name.
pub(crate) fn line_mark(color: RGBColor) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
}
