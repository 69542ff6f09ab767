//! One upgrade as a picture: the connections of each process, and how long clients wait, from shortly before until it
//! is over.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use baton::control::{Client, Reply, Request};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Done, Report};
use crate::load::Outcome;
use crate::run::group;

const SIZE: (u32, u32) = (1000, 520);
const UPPER: u32 = 300;

/// The interval at which masters are asked.
const LOOK_INTERVAL: Duration = Duration::from_millis(4);

/// A master that does not answer within this time is left out of a look.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(200);

/// Seconds that are shown before the upgrade begins and after it is over.
const BEFORE_S: f64 = 0.3;
const AFTER_S: f64 = 0.3;

const OLD: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const NEW: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const KEPT: RGBColor = RGBColor(0x2c, 0xa0, 0x2c);
const CHURN: RGBColor = RGBColor(0xff, 0x7f, 0x0e);

/// Open connections of each master's workers, by the master's process.
struct Look {
    at: Instant,
    open: BTreeMap<u32, u64>,
}

/// Observes a server until it is stopped.
pub(super) struct Watch {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Look>>,
}

impl Watch {
    pub(super) fn start(control: PathBuf) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut looks = Vec::new();
            while !told.load(Ordering::Relaxed) {
                looks.push(Look { at: Instant::now(), open: open(&control) });
                thread::sleep(LOOK_INTERVAL);
            }
            looks
        });
        Self { is_over, thread }
    }

    fn stop(self) -> Vec<Look> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// The reports of all masters: the one with the control socket's name, and those beside it.
fn open(control: &Path) -> BTreeMap<u32, u64> {
    let (Some(folder), Some(name)) = (control.parent(), control.file_name().and_then(|name| name.to_str())) else {
        return BTreeMap::new();
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_master = |other: &str| {
        let rest = other.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.').is_some_and(is_number))
    };
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let masters = files.filter(|file| file.file_name().to_str().is_some_and(is_master));
    let asked = masters.filter_map(|file| Client::ask(&file.path(), &Request::Status, Some(ANSWER_TIME_MAX)).ok());
    let statuses = asked.filter_map(|reply| if let Reply::Status(status) = reply { Some(status) } else { None });
    let sums = statuses.map(|status| {
        let workers = status.generations.iter().flat_map(|generation| &generation.workers);
        (status.pid, workers.map(|worker| worker.open).sum())
    });
    sums.collect()
}

/// Draws the last action.
pub(super) fn draw(
    path: &Path,
    watch: Watch,
    report: &Report,
    done: &[Done],
    origin: Instant,
    (churn, kept): (&Outcome, &Outcome),
) -> Result<(), Box<dyn Error>> {
    let looks = watch.stop();
    let last = done.last().ok_or("no action was done")?;
    let from_begin = |at: Instant| {
        at.saturating_duration_since(last.begun).as_secs_f64() - last.begun.saturating_duration_since(at).as_secs_f64()
    };
    let old = looks.iter().rfind(|look| look.at < last.begun).and_then(|look| look.open.keys().next().copied());
    let old = old.ok_or("the server was not seen before the action")?;
    // If the load has ended earlier, its end was not observed.
    let gone = looks.iter().rfind(|look| look.open.contains_key(&old)).map(|look| look.at);
    // While the name passes to the other master, it is not found for a moment.
    let has_all = |look: &&Look| look.open.contains_key(&old) || gone.is_none_or(|gone| look.at > gone);
    let gone = gone.filter(|gone| *gone + LOOK_INTERVAL * 10 < last.settled);
    let end = from_begin(gone.unwrap_or(last.ended).max(last.ended)) + AFTER_S;
    let (begin, end) = (-BEFORE_S, end.min(from_begin(last.settled)));
    let points: Vec<(f64, u64, u64)> = looks
        .iter()
        .filter(has_all)
        .map(|look| {
            let old_open = look.open.get(&old).copied().unwrap_or(0);
            (from_begin(look.at), old_open, look.open.values().sum::<u64>() - old_open)
        })
        .filter(|(at, ..)| (begin..=end).contains(at))
        .collect();
    let start = from_begin(origin);
    let bins = |outcome: &Outcome| -> Vec<(f64, u64, f64)> {
        let interval = outcome.timeline.interval.as_secs_f64();
        let bins = outcome.timeline.bins.iter().enumerate();
        let bins = bins.map(|(index, bin)| {
            (start + (index as f64 + 0.5) * interval, bin.requests, bin.latency_max_ns as f64 / 1e6)
        });
        bins.filter(|(at, ..)| (begin..=end).contains(at)).collect()
    };
    let (churn, kept) = (bins(churn), bins(kept));
    let answered: u64 = churn.iter().chain(&kept).map(|(_, requests, _)| requests).sum();

    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(UPPER);
    let top = points.iter().map(|(_, old, new)| old + new).max().unwrap_or(1).max(1) as f64 * 1.35;
    let title =
        format!("{} under load: {} requests answered, {} lost", last.action.name(), group(answered), report.lost());
    let mut chart = ChartBuilder::on(&upper)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(8)
        .y_label_area_size(64)
        .build_cartesian_2d(begin..end, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_desc("open connections")
        .y_label_formatter(&|value| group(*value as u64))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let all: Vec<(f64, f64)> = points.iter().map(|(at, old, new)| (*at, (old + new) as f64)).collect();
    let news: Vec<(f64, f64)> = points.iter().map(|(at, _, new)| (*at, *new as f64)).collect();
    for (name, series, color) in [("the old process", all, OLD), ("the new process", news, NEW)] {
        chart
            .draw_series(AreaSeries::new(series, 0.0, color.mix(0.8).filled()).border_style(color))?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
    }
    let steps =
        [(Some(last.begun), "it begins"), (Some(last.ended), "the new one serves"), (gone, "the old one is gone")];
    let steps = steps.into_iter().filter_map(|(at, name)| Some((from_begin(at?), name)));
    for (index, (at, name)) in steps.enumerate() {
        chart.draw_series([PathElement::new([(at, 0.0), (at, top)], BLACK.mix(0.6))])?;
        let style = ("sans-serif", 13).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Top));
        let text = format!(" {name} ({:.0} ms)", at * 1e3);
        chart.draw_series([Text::new(text, (at, top * (0.99 - 0.07 * index as f64)), style)])?;
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::LowerLeft).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;

    let slowest = churn.iter().chain(&kept).map(|(_, _, latency)| *latency).fold(1.0, f64::max) * 1.3;
    let mut chart = ChartBuilder::on(&lower)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(begin..end, 0.0..slowest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc("seconds")
        .y_desc("longest wait, ms")
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (name, series, color) in [("kept connections", kept, KEPT), ("a connection for each request", churn, CHURN)] {
        let series = series.into_iter().map(|(at, _, latency)| (at, latency));
        chart
            .draw_series(LineSeries::new(series, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color.stroke_width(2)));
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
