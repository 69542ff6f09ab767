//! The layout of the model: as a screen of any size, and as plain lines.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::model::{Model, Rates, Row, Sort};

/// The most lines for masters, and the most for generations; the rest is left out.
const LINES_MAX: usize = 4;

/// A column: its heading, its width, and its rank. On a narrow screen the columns with the highest rank are left out
/// first.
struct Column {
    heading: &'static str,
    width: usize,
    leaves: u8,
    value: fn(&Row) -> String,
}

const fn column(heading: &'static str, width: usize, leaves: u8, value: fn(&Row) -> String) -> Column {
    Column { heading, width, leaves, value }
}

/// Together with the spaces between them they fit into 80 columns.
const COLUMNS: [Column; 11] = [
    column("worker", 6, 0, |row| format!("{}.{}", row.generation, row.slot)),
    column("pid", 7, 6, |row| row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
    column("state", 8, 3, |row| row.state.clone()),
    column("busy%", 5, 1, |row| row.busy_permille.map_or_else(|| "-".to_owned(), |busy| (busy / 10).to_string())),
    column("open", 6, 0, |row| number(row.open, 1.0)),
    column("acc/s", 6, 5, |row| rate(row, |rates| rates.accepted)),
    column("req/s", 6, 0, |row| rate(row, |rates| rates.requests)),
    column("in B/s", 6, 8, |row| rate(row, |rates| rates.bytes_received)),
    column("out B/s", 7, 7, |row| rate(row, |rates| rates.bytes_sent)),
    column("p50 µs", 6, 4, |row| number(row.service_ns_p50, 1e3)),
    column("p99 µs", 6, 2, |row| number(row.service_ns_p99, 1e3)),
];

fn number(value: Option<u64>, unit: f64) -> String {
    value.map_or_else(|| "-".to_owned(), |value| short(value as f64 / unit))
}

fn rate(row: &Row, which: fn(&Rates) -> f64) -> String {
    row.rates.map_or_else(|| "-".to_owned(), |rates| short(which(&rates)))
}

/// A number in at most five characters, with a prefix of the SI where it is large.
fn short(number: f64) -> String {
    let (mut value, mut prefix) = (number, "");
    for next in ["k", "M", "G", "T", "P", "E"] {
        if value < 999.5 {
            break;
        }
        (value, prefix) = (value / 1e3, next);
    }
    if value < 99.95 && value.fract() != 0.0 { format!("{value:.1}{prefix}") } else { format!("{value:.0}{prefix}") }
}

fn table(rows: &[Row], width: usize) -> Vec<String> {
    let mut columns: Vec<&Column> = COLUMNS.iter().collect();
    let needed = |columns: &[&Column]| columns.iter().map(|column| column.width + 1).sum::<usize>() - 1;
    while needed(&columns) > width {
        let Some(first) = columns.iter().map(|column| column.leaves).max().filter(|leaves| *leaves > 0) else { break };
        columns.retain(|column| column.leaves < first);
    }
    let line = |cell: &dyn Fn(&Column) -> String| {
        let cells: Vec<String> = columns.iter().map(|column| format!("{:>1$}", cell(column), column.width)).collect();
        cells.join(" ")
    };
    let rows = rows.iter().map(|row| line(&|column| (column.value)(row)));
    std::iter::once(line(&|column| column.heading.to_owned())).chain(rows).collect()
}

fn total(model: &Model) -> String {
    let open = format!("total {} open", short(model.open as f64));
    model.rates.map_or(open.clone(), |rates| {
        let Rates { accepted, requests, bytes_received, bytes_sent } = rates;
        let (accepted, requests) = (short(accepted), short(requests));
        let (received, sent) = (short(bytes_received), short(bytes_sent));
        format!("{open}, {requests} req/s, {accepted} acc/s, in {received}B/s, out {sent}B/s")
    })
}

/// What the user has selected with keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The order of rows.
    pub(crate) sort: Sort,
    /// Number of rows that are scrolled past.
    pub(crate) skipped: usize,
}

/// Draws the model. `problem` says why there is no newer one.
pub(crate) fn draw(frame: &mut Frame<'_>, model: &Model, view: View, problem: Option<&str>) {
    let area = frame.area();
    let mut head: Vec<Line<'_>> = model.masters.iter().take(LINES_MAX).map(|line| Line::from(line.as_str())).collect();
    if let Some(problem) = problem {
        head.push(Line::styled(problem, Style::new().add_modifier(Modifier::REVERSED)));
    }
    head.push(Line::styled(total(model), Style::new().add_modifier(Modifier::BOLD)));
    // The last generations, which include the serving one.
    let generations = &model.generations[model.generations.len().saturating_sub(LINES_MAX)..];
    head.extend(generations.iter().map(|line| Line::from(line.as_str())));
    let height = usize::from(area.height);
    // Keep at least the heading, one worker and the keys.
    head.truncate(height.saturating_sub(3));
    let rest = height.saturating_sub(head.len() + 1);
    let rows_max = if rest > 8 { rest - rest / 3 } else { rest };
    let rows = table(&model.rows, usize::from(area.width));
    let table_height = rows.len().min(rows_max);
    let constraints = [head.len(), table_height].map(|lines| Constraint::Length(lines as u16));
    let [head_area, table_area, steps_area, keys_area] =
        Layout::vertical([constraints[0], constraints[1], Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    frame.render_widget(Paragraph::new(head), head_area);

    let skipped = view.skipped.min(rows.len().saturating_sub(table_height));
    let mut lines = rows.into_iter();
    let heading = lines.next().map(|line| Line::styled(line, Style::new().add_modifier(Modifier::REVERSED)));
    let shown = heading.into_iter().chain(lines.skip(skipped).map(Line::from));
    frame.render_widget(Paragraph::new(shown.collect::<Vec<_>>()), table_area);

    let steps_height = usize::from(steps_area.height).saturating_sub(1);
    let steps = &model.steps[model.steps.len().saturating_sub(steps_height)..];
    let steps = std::iter::once("").chain(steps.iter().map(String::as_str)).map(Line::from);
    frame.render_widget(Paragraph::new(steps.collect::<Vec<_>>()), steps_area);

    let keys = format!("q quit  s sort ({})  up/down scroll", view.sort.name());
    frame.render_widget(Paragraph::new(Line::styled(keys, Style::new().add_modifier(Modifier::DIM))), keys_area);
}

/// The model as lines, for a pipe and for terminals that support nothing else.
pub(crate) fn lines(model: &Model) -> String {
    let mut text: Vec<String> = model.masters.clone();
    text.push(total(model));
    text.extend(table(&model.rows, usize::MAX));
    text.join("\n") + "\n\n"
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::model::tests::sample;
    use super::*;

    fn model(workers: usize) -> Model {
        let of = |requests: u64| {
            let workers: Vec<_> =
                (0..workers).map(|slot| (slot, 100 + slot as u32, requests * slot as u64, 7, Some(421))).collect();
            sample(requests, &workers)
        };
        Model::new(Some(&of(0)), &of(1_000), Sort::Worker)
    }

    fn drawn(width: u16, height: u16, model: &Model, view: View, problem: Option<&str>) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, model, view, problem)).expect("drawn");
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    #[test]
    fn a_usual_screen_has_everything() {
        let expected = [
            r"no\u{1b}[31mtes running (upgrade: held), pid 99, up 1 min 1 s",
            "total 14 open, 1k req/s, 100 acc/s, in 100kB/s, out 1MB/s",
            "generation 2, serving, 1 min 1 s, 2 workers, on [::1]:80",
            "worker     pid    state busy%   open  acc/s  req/s in B/s out B/s p50 µs p99 µs",
            "   2.0     100    ready    42      7      0      0      0       0    1.2      9",
            "   2.1     101    ready    42      7    100     1k   100k      1M    1.2    9.0",
            "",
            r"00:00:01.000000Z  generation 2: /x\u{1b}[2J started (pid 7)",
            "00:00:01.000005Z  generation 2: serves (7 ms)",
        ];
        let screen = drawn(80, 24, &model(2), View::default(), None);
        assert_eq!(screen[..9], expected);
        assert_eq!(screen[23], "q quit  s sort (worker)  up/down scroll");
    }

    #[test]
    fn a_small_screen_has_what_matters_most() {
        let screen = drawn(40, 10, &model(2), View::default(), Some("no answer"));
        assert!(screen[0].contains("(upgrade: held)"), "{screen:?}");
        assert_eq!(screen[1], "no answer");
        assert_eq!(screen[4], "worker busy%   open  req/s p99 µs");
        assert_eq!(screen[9], "q quit  s sort (worker)  up/down scroll");
    }

    #[test]
    fn many_workers_leave_room_for_steps_and_are_scrolled() {
        let model = model(300);
        for (width, height) in [(200, 60), (80, 24)] {
            let screen = drawn(width, height, &model, View { skipped: 10, ..View::default() }, None);
            assert!(screen[4].starts_with("  2.10 "), "{screen:?}");
            assert!(screen.iter().any(|line| line.ends_with("serves (7 ms)")), "{screen:?}");
            let end = drawn(width, height, &model, View { skipped: usize::MAX, ..View::default() }, None);
            assert!(end.iter().any(|line| line.starts_with(" 2.299 ")), "{end:?}");
        }
    }

    #[test]
    fn no_size_is_too_small() {
        for (width, height) in (1..12).flat_map(|width| (1..12).map(move |height| (width, height))) {
            drawn(width, height, &model(3), View::default(), Some("no answer"));
            drawn(width, height, &Model::default(), View::default(), None);
        }
    }

    #[test]
    fn lines_are_plain() {
        let text = lines(&model(1));
        assert!(text.chars().all(|one| one == '\n' || !one.is_control()), "{text:?}");
        assert_eq!(text.lines().count(), 5);
    }

    #[test]
    fn numbers_are_short() {
        let of = [0.0, 7.25, 99.96, 999.4, 999.6, 12_345.0, 1e6, u64::MAX as f64];
        assert_eq!(of.map(short), ["0", "7.2", "100", "999", "1.0k", "12.3k", "1M", "18.4E"]);
    }
}
