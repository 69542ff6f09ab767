//! The picture of a run: latency by percentile above, throughput over time below.

use std::error::Error;
use std::path::Path;

use hdrhistogram::Histogram;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use super::report::Report;
use crate::load::Outcome;
use crate::panel::{Area, GREY, line_mark, over_time, titled};

const SIZE: (u32, u32) = (1000, 760);
const FROM_SENDING: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const FROM_DUE: RGBColor = RGBColor(0xd6, 0x27, 0x28);

/// Percentiles that the axis names, by their number of nines: 1/(1-p) on a logarithmic axis.
const MARKS: [(f64, &str); 7] = [
    (1.0, "0 %"),
    (2.0, "50 %"),
    (10.0, "90 %"),
    (100.0, "99 %"),
    (1e3, "99.9 %"),
    (1e4, "99.99 %"),
    (1e5, "99.999 %"),
];

/// Draws the picture into a file.
pub(super) fn draw(path: &Path, report: &Report, outcome: &Outcome) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(440);
    draw_latency(&upper, report, outcome)?;
    draw_throughput(&lower, report, outcome)?;
    root.present()?;
    Ok(())
}

/// An axis of 1/(1-p), with the marks above.
struct Nines {
    most: f64,
}

impl Ranged for Nines {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = value.max(1.0).ln() / self.most.ln();
        limit.0 + (f64::from(limit.1 - limit.0) * share) as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        MARKS.iter().map(|(at, _)| *at).filter(|at| *at <= self.most).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        1.0..self.most
    }
}

fn draw_latency(area: &Area<'_>, report: &Report, outcome: &Outcome) -> Result<(), Box<dyn Error>> {
    let phase = &outcome.phases[0];
    let mut series = vec![("from sending", &phase.latency, FROM_SENDING)];
    if report.rate.is_some() {
        series.push(("from when due", &phase.latency_corrected, FROM_DUE));
    }
    let points: Vec<_> = series.into_iter().map(|(name, latency, color)| (name, quantiles(latency), color)).collect();
    let all = || points.iter().flat_map(|(_, points, _)| points);
    let highest = all().map(|(_, value)| *value).fold(0.001, f64::max);
    let lowest = all().map(|(_, value)| *value).fold(highest, f64::min).max(1e-3);
    let most = all().map(|(at, _)| *at).fold(100.0, f64::max);
    let title = format!("{} at {}: latency, ms", report.exchange, report.target);
    let mut chart =
        titled(area, &title).build_cartesian_2d(Nines { most }, (lowest * 0.8..highest * 1.2).log_scale())?;
    let name_of =
        |at: &f64| MARKS.iter().find(|(mark, _)| mark == at).map_or(String::new(), |(_, name)| (*name).to_owned());
    chart
        .configure_mesh()
        .x_desc("percentile")
        .x_label_formatter(&name_of)
        .y_label_formatter(&|value| if *value < 0.1 { format!("{value:.3}") } else { format!("{value:.1}") })
        .light_line_style(GREY)
        .draw()?;
    for (name, points, color) in points {
        chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?.label(name).legend(line_mark(color));
    }
    if report.rate.is_some() {
        let mut style = chart.configure_series_labels();
        let style = style.position(SeriesLabelPosition::UpperLeft);
        style.background_style(WHITE).border_style(BLACK).draw()?;
    }
    Ok(())
}

/// 1/(1-p) and milliseconds, as finely as there are values.
fn quantiles(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    let last = latency.len().max(2) as f64;
    let steps = latency.iter_quantiles(8);
    let points = steps.map(|step| {
        let above = 1.0 - step.quantile_iterated_to();
        ((1.0 / above.max(1.0 / last)).min(1e5), step.value_iterated_to() as f64 / 1e6)
    });
    points.collect()
}

fn draw_throughput(area: &Area<'_>, report: &Report, outcome: &Outcome) -> Result<(), Box<dyn Error>> {
    let interval = outcome.timeline.interval.as_secs_f64();
    let end = report.measured_from_seconds + report.seconds;
    let points: Vec<(f64, f64)> = outcome
        .timeline
        .bins
        .iter()
        .enumerate()
        .map(|(index, bin)| ((index as f64 + 0.5) * interval, bin.requests as f64 / interval))
        .filter(|(at, _)| *at < end)
        .collect();
    let highest = points.iter().map(|(_, rate)| *rate).fold(1.0, f64::max) * 1.1;
    let warm_up = [(0.0, report.measured_from_seconds)];
    let mut chart = over_time(area, "requests a second", "seconds; grey: warm-up", (end, highest), (&warm_up, GREY))?;
    chart.draw_series(LineSeries::new(points, FROM_SENDING.stroke_width(2)))?;
    Ok(())
}
