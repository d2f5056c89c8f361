//! Draws the results of the load harness: `doorward-picture OUT.svg RESULT.json …`, one panel a workload, one bar a server, requests per
//! CPU-second of the server (the median of the rounds; the line through its end goes from the lowest round to the highest).
use std::{collections::BTreeMap, error::Error, fs, process::ExitCode};

use plotters::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Pixels.
const WIDTH: u32 = 980;
const BAR: i32 = 18;
const GAP: i32 = 4;
const TITLE: i32 = 30;
const NAME: i32 = 190;
const FIGURE: i32 = 250;
const MARGIN: i32 = 14;

const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb2);
const FLOOR: RGBColor = RGBColor(0xb8, 0xb8, 0xb8);
const THEIRS: RGBColor = RGBColor(0xe0, 0x9a, 0x3c);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);

/// A file that the harness wrote.
#[derive(Debug, Deserialize)]
struct Results {
    workloads: Map<String, Value>,
}

/// One round.
#[derive(Debug, Deserialize)]
struct Sample {
    per_core: f64,
}

/// A server's rounds of one workload.
#[derive(Debug, Clone, PartialEq)]
struct Bar {
    server: String,
    lowest: f64,
    median: f64,
    highest: f64,
}

/// A workload and whoever ran it, the fastest first.
#[derive(Debug, Clone, PartialEq)]
struct Panel {
    workload: String,
    bars: Vec<Bar>,
}

/// The panels of some files, workloads in the order of the files; a server that was measured twice counts as it was measured last.
fn panels(files: &[Results]) -> Result<Vec<Panel>, Box<dyn Error>> {
    let mut order: Vec<&String> = Vec::new();
    let mut known: BTreeMap<&String, BTreeMap<&String, Bar>> = BTreeMap::new();
    for file in files {
        for (workload, servers) in &file.workloads {
            let servers = servers.as_object().ok_or_else(|| format!("{workload}: no servers"))?;
            for (server, rounds) in servers {
                let rounds: Vec<Sample> = serde_json::from_value(rounds.clone()).map_err(|why| format!("{workload}, {server}: {why}"))?;
                let mut rates: Vec<f64> = rounds.iter().map(|round| round.per_core).filter(|rate| rate.is_finite()).collect();
                rates.sort_by(f64::total_cmp);
                let (Some(lowest), Some(highest)) = (rates.first(), rates.last()) else { continue };
                let median = (rates[(rates.len() - 1) / 2] + rates[rates.len() / 2]) / 2.0;
                if !order.contains(&workload) {
                    order.push(workload);
                }
                let bar = Bar { server: server.clone(), lowest: *lowest, median, highest: *highest };
                known.entry(workload).or_default().insert(server, bar);
            }
        }
    }
    Ok(order
        .into_iter()
        .map(|workload| {
            let mut bars: Vec<Bar> = known.remove(workload).unwrap_or_default().into_values().collect();
            bars.sort_by(|a, b| b.median.total_cmp(&a.median));
            Panel { workload: workload.clone(), bars }
        })
        .collect())
}

/// A whole number with its thousands apart.
fn grouped(rate: f64) -> String {
    let digits = format!("{rate:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// What stands beside a bar: the rate, and how many times ours is that.
fn figure(bar: &Bar, ours: Option<f64>) -> String {
    match ours {
        Some(ours) if !bar.server.starts_with("doorward") && bar.median > 0.0 => {
            format!("{} /CPU-s (ours {:.2}×)", grouped(bar.median), ours / bar.median)
        }
        _ => format!("{} /CPU-s", grouped(bar.median)),
    }
}

fn height(panel: &Panel) -> i32 {
    TITLE + i32::try_from(panel.bars.len()).unwrap_or(0) * (BAR + GAP)
}

fn draw(panels: &[Panel], to: &str) -> Result<(), Box<dyn Error>> {
    let total = panels.iter().map(height).sum::<i32>() + 2 * MARGIN;
    let root = SVGBackend::new(to, (WIDTH, u32::try_from(total)?)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = ("sans-serif", 15).into_font().style(FontStyle::Bold).color(&INK);
    let small = ("sans-serif", 12).into_font().color(&INK);
    let room = f64::from(i32::try_from(WIDTH)? - NAME - FIGURE - 2 * MARGIN);
    let mut top = MARGIN;
    for panel in panels {
        root.draw(&Text::new(panel.workload.clone(), (MARGIN, top + 6), title.clone()))?;
        let most = panel.bars.iter().map(|bar| bar.highest).fold(f64::MIN_POSITIVE, f64::max);
        let ours = panel.bars.iter().find(|bar| bar.server == "doorward").map(|bar| bar.median);
        let place = |rate: f64| NAME + (rate / most * room).round() as i32;
        for (n, bar) in panel.bars.iter().enumerate() {
            let y = top + TITLE + i32::try_from(n)? * (BAR + GAP);
            let colour = match bar.server.as_str() {
                ours if ours.starts_with("doorward") => OURS,
                floor if floor.starts_with("floor") => FLOOR,
                _ => THEIRS,
            };
            root.draw(&Text::new(bar.server.clone(), (MARGIN, y + 3), small.clone()))?;
            root.draw(&Rectangle::new([(NAME, y), (place(bar.median).max(NAME + 1), y + BAR)], colour.filled()))?;
            let middle = y + BAR / 2;
            root.draw(&PathElement::new(vec![(place(bar.lowest), middle), (place(bar.highest), middle)], INK))?;
            root.draw(&Text::new(figure(bar, ours), (place(bar.highest) + 8, y + 3), small.clone()))?;
        }
        top += height(panel);
    }
    root.present()?;
    Ok(())
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().ok_or("usage: doorward-picture OUT.svg RESULT.json …")?;
    let read = |path: String| -> Result<Results, Box<dyn Error>> {
        Ok(serde_json::from_str(&fs::read_to_string(&path).map_err(|why| format!("{path}: {why}"))?)
            .map_err(|why| format!("{path}: {why}"))?)
    };
    let files = arguments.map(read).collect::<Result<Vec<_>, _>>()?;
    let panels = panels(&files)?;
    if panels.is_empty() {
        return Err("nothing was measured in these files".into());
    }
    draw(&panels, &out)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Results {
        serde_json::from_str(text).expect("a file of results")
    }

    #[test]
    fn the_median_and_the_ends_of_the_rounds_are_drawn_fastest_first() {
        let one = file(
            r#"{"workloads": {"jwks": {"a": [{"per_core": 3.0}, {"per_core": 1.0}], "doorward": [{"per_core": 5.0}]}, "none": {"a": []}}}"#,
        );
        let panels = panels(&[one]).expect("panels");
        assert_eq!(panels.len(), 1);
        assert_eq!(panels[0].bars[0].server, "doorward");
        assert_eq!(panels[0].bars[1], Bar { server: "a".into(), lowest: 1.0, median: 2.0, highest: 3.0 });
        assert_eq!(figure(&panels[0].bars[1], Some(5.0)), "2 /CPU-s (ours 2.50×)");
    }

    #[test]
    fn a_later_file_replaces_what_an_earlier_one_said() {
        let files = [
            file(r#"{"workloads": {"jwks": {"a": [{"per_core": 3.0}]}}}"#),
            file(r#"{"workloads": {"jwks": {"a": [{"per_core": 4.0}]}}}"#),
        ];
        assert_eq!(panels(&files).expect("panels")[0].bars[0].median, 4.0);
    }

    #[test]
    fn what_is_no_result_is_refused_by_name() {
        let wrong = panels(&[file(r#"{"workloads": {"jwks": {"a": [{"rps": 3.0}]}}}"#)]).expect_err("no rate");
        assert!(wrong.to_string().contains("jwks, a"), "{wrong}");
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(["7", "1 234", "12 345 678"], [7.2, 1234.0, 12_345_678.0].map(grouped).each_ref().map(String::as_str));
    }
}
