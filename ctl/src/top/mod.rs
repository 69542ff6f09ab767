//! `batonctl top`: a live screen, or plain lines if the output is not a terminal that can show one.

mod model;
mod screen;

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::model::{Model, Sample};
use self::screen::View;
use crate::{Failure, print};

/// The interval between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// A key, a signal or a sample is handled within this time.
const TURN_TIME_MAX: Duration = Duration::from_millis(100);

type Sampled = Result<Sample, Failure>;

/// Shows the server until the user quits.
///
/// # Errors
/// No server answers at first, or the terminal cannot be used. A server that goes away later is asked again.
pub(crate) fn run(path: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    let first = sample(path, start)?;
    if !crate::can_steer(io::stdout().is_terminal()) {
        return print_lines(path, start, first);
    }
    // These signals end the loop below, which leaves the terminal as it was. They are blocked before the second thread starts,
    // so that it does not take them.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT].into_iter().collect();
    let terminal_failed = |error: io::Error| Failure::Failed(format!("the terminal cannot be used: {error}"));
    let stops = signals
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
        .map_err(|error| terminal_failed(error.into()))?;
    // A slow server delays the sampler, never the keys.
    let (sender, receiver) = mpsc::sync_channel(1);
    let owned: PathBuf = path.to_owned();
    thread::spawn(move || keep_sampling(&owned, start, &sender));
    thread::spawn(end_with_terminal);
    let mut terminal = ratatui::try_init().map_err(terminal_failed)?;
    let shown = show(&mut terminal, first, &receiver, &stops).map_err(terminal_failed);
    // The hook of `try_init` restores the terminal after a panic.
    ratatui::try_restore().map_err(terminal_failed).and(shown)
}

/// Waits until the terminal is gone, and ends the process: the thread that reads keys would otherwise read their end in
/// a loop.
fn end_with_terminal() {
    let stdout = io::stdout();
    // poll(2) reports the hangup without being asked for it.
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    while poll(&mut polled, PollTimeout::NONE) == Err(Errno::EINTR) {}
    std::process::exit(0);
}

/// Ends when the receiver is gone.
fn keep_sampling(path: &Path, start: Instant, sender: &SyncSender<Sampled>) {
    loop {
        thread::sleep(INTERVAL);
        if sender.send(sample(path, start)).is_err() {
            return;
        }
    }
}

fn sample(path: &Path, start: Instant) -> Sampled {
    // The master that has the control socket's name answers: after an upgrade, that is the new one.
    let (status, _) = crate::status(path)?;
    let at = start.elapsed();
    let masters = std::iter::once(status).chain(crate::others(path)).collect();
    Ok(Sample { at, masters })
}

fn print_lines(path: &Path, start: Instant, first: Sample) -> Result<(), Failure> {
    let (mut before, mut now) = (None, Some(first));
    loop {
        if let Some(sample) = now.take() {
            print(&screen::lines(&Model::new(before.as_ref(), &sample, View::default().sort)))?;
            before = Some(sample);
        }
        thread::sleep(INTERVAL);
        match sample(path, start) {
            Ok(sample) => now = Some(sample),
            Err(failure) => print(&format!("trying again: {failure}\n\n"))?,
        }
    }
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    first: Sample,
    samples: &Receiver<Sampled>,
    stops: &SignalFd,
) -> io::Result<()> {
    let (mut before, mut now, mut view, mut problem) = (None, first, View::default(), None);
    let mut model = Model::new(None, &now, view.sort);
    loop {
        terminal.draw(|frame| screen::draw(frame, &model, view, problem.as_deref()))?;
        // One wait for keys, short enough for everything else.
        if event::poll(TURN_TIME_MAX)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match pressed(key, view, model.rows.len()) {
                    Some(changed) => view = changed,
                    None => return Ok(()),
                },
                _ => {}
            }
        }
        if stops.read_signal()?.is_some() {
            return Ok(());
        }
        match samples.recv_timeout(Duration::ZERO) {
            Ok(Ok(sample)) => {
                before = Some(std::mem::replace(&mut now, sample));
                problem = None;
            }
            Ok(Err(failure)) => problem = Some(format!("trying again: {failure}")),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                problem = Some("sampling has stopped; start batonctl top again".to_owned())
            }
        }
        model = Model::new(before.as_ref(), &now, view.sort);
    }
}

/// What a key changes; `None` quits.
fn pressed(key: KeyEvent, view: View, rows: usize) -> Option<View> {
    let last = rows.saturating_sub(1);
    let skipped = match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return None,
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => return None,
        KeyCode::Char('s') => return Some(View { sort: view.sort.next(), ..view }),
        KeyCode::Down | KeyCode::Char('j') => view.skipped.saturating_add(1),
        KeyCode::Up | KeyCode::Char('k') => view.skipped.saturating_sub(1),
        KeyCode::PageDown => view.skipped.saturating_add(10),
        KeyCode::PageUp => view.skipped.saturating_sub(10),
        KeyCode::Home => 0,
        _ => view.skipped,
    };
    Some(View { skipped: skipped.min(last), ..view })
}

#[cfg(test)]
mod tests {
    use super::model::Sort;
    use super::*;

    #[test]
    fn keys_sort_scroll_and_quit() {
        let press = |code, view| pressed(KeyEvent::from(code), view, 3);
        let view = View::default();
        let quits = [KeyCode::Char('q'), KeyCode::Esc].map(|code| press(code, view));
        assert_eq!(quits, [None, None]);
        assert_eq!(pressed(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), view, 3), None);
        assert_eq!(press(KeyCode::Char('s'), view), Some(View { sort: Sort::Busy, skipped: 0 }));
        assert_eq!(press(KeyCode::Up, view), Some(view));
        assert_eq!(press(KeyCode::Down, view), Some(View { skipped: 1, ..view }));
        assert_eq!(press(KeyCode::PageDown, view), Some(View { skipped: 2, ..view }));
        assert_eq!(press(KeyCode::Char('x'), view), Some(view));
    }
}
