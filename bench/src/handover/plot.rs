//! The timeline: throughput and longest latency over time, actions as bands, losses in red.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use plotters::prelude::*;

use super::report::{Done, Report};
use crate::load::{Bin, Outcome};
use crate::panel::{Area, line_mark, over_time};

const SIZE: (u32, u32) = (1200, 760);
const CHURN: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const KEPT: RGBColor = RGBColor(0x2c, 0xa0, 0x2c);
const BAND: RGBColor = RGBColor(0xf3, 0xec, 0xd8);

/// With more actions than this, their names are left out.
const NAMES_MAX: usize = 40;

/// Draws the timeline into a file.
pub(super) fn draw(
    path: &Path,
    report: &Report,
    done: &[Done],
    origin: Instant,
    churn: &Outcome,
    kept: &Outcome,
) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(400);
    let seconds = |at: Instant| at.saturating_duration_since(origin).as_secs_f64();
    let bands: Vec<(f64, f64, String)> =
        done.iter().map(|one| (seconds(one.begun), seconds(one.settled), one.action.name())).collect();
    let title = format!("{}: requests a second", report.server);
    let interval = churn.timeline.interval.as_secs_f64();
    draw_panel(&upper, &title, &bands, true, [churn, kept], |bin| bin.requests as f64 / interval)?;
    let title = "longest latency, ms; red: failures, those of killed workers too";
    draw_panel(&lower, title, &bands, false, [churn, kept], |bin| bin.latency_max_ns as f64 / 1e6)?;
    root.present()?;
    Ok(())
}

fn draw_panel(
    area: &Area<'_>,
    title: &str,
    bands: &[(f64, f64, String)],
    has_names: bool,
    outcomes: [&Outcome; 2],
    value: impl Fn(&Bin) -> f64,
) -> Result<(), Box<dyn Error>> {
    let interval = outcomes[0].timeline.interval.as_secs_f64();
    // The last bin is incomplete.
    let points = |outcome: &Outcome| -> Vec<(f64, f64)> {
        let bins = &outcome.timeline.bins;
        let whole = &bins[..bins.len().saturating_sub(1)];
        whole.iter().enumerate().map(|(index, bin)| ((index as f64 + 0.5) * interval, value(bin))).collect()
    };
    let series = [
        ("a connection for each request", points(outcomes[0]), CHURN),
        ("kept connections", points(outcomes[1]), KEPT),
    ];
    let all = || series.iter().flat_map(|(_, points, _)| points);
    let end = all().map(|(at, _)| *at).fold(1.0, f64::max);
    let top = all().map(|(_, value)| *value).fold(1.0, f64::max) * 1.15;
    let time = "seconds; bands: from an action's start until everything it left behind is gone";
    let times: Vec<(f64, f64)> = bands.iter().map(|(from, to, _)| (*from, *to)).collect();
    let mut chart = over_time(area, title, time, (end, top), (&times, BAND))?;
    for (name, points, color) in series.iter().map(|(name, points, color)| (*name, points.clone(), *color)) {
        chart.draw_series(LineSeries::new(points, color.stroke_width(1)))?.label(name).legend(line_mark(color));
    }
    let failed = outcomes.into_iter().flat_map(|outcome| outcome.timeline.bins.iter().enumerate());
    let failed = failed.filter(|(_, bin)| bin.failures > 0);
    chart.draw_series(
        failed.map(|(index, _)| Circle::new(((index as f64 + 0.5) * interval, top * 0.02), 4, RED.filled())),
    )?;
    if has_names && bands.len() <= NAMES_MAX {
        let style = ("sans-serif", 12).into_font().transform(FontTransform::Rotate90).color(&BLACK);
        let names = bands
            .iter()
            .map(|(from, _, name)| Text::new(name.clone(), (*from + end * 0.01, top * 0.98), style.clone()));
        chart.draw_series(names)?;
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.7)).border_style(BLACK).draw()?;
    Ok(())
}
