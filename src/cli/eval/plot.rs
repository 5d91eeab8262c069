//! Plots the score against generated tokens as an SVG.

use anyhow::anyhow;
use plotters::prelude::*;

use crate::eval::report::{Point, Report, strategy_name};

const SIZE: (u32, u32) = (880, 520);
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];

/// Draws a line per strategy with its intervals and budgets; greedy decoding is a dashed level.
///
/// # Errors
/// Fails if the drawing library fails.
pub(super) fn scores(report: &Report) -> anyhow::Result<String> {
    let mut svg = String::new();
    draw(report, &mut svg).map_err(|error| anyhow!("the plot cannot be drawn: {error}"))?;
    Ok(svg)
}

fn draw(report: &Report, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let points = &report.points;
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let tokens = || points.iter().map(|point| point.tokens.max(1.0));
    let (least, most) = (tokens().fold(f64::MAX, f64::min), tokens().fold(1.0, f64::max));
    let low = points.iter().map(|point| point.prompt_strict.low).fold(1.0, f64::min);
    let high = points.iter().map(|point| point.prompt_strict.high).fold(0.0, f64::max);
    let (bottom, top) = ((low - 0.05).max(0.0), (high + 0.05).min(1.0));
    let (left, right) = (least / 1.3, most * 1.3);
    let prompts = points.first().map_or(0, |point| point.prompt_strict.n);
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{prompts} prompts: share followed strictly, 95 % intervals"), ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((left..right).log_scale(), bottom..top)?;
    chart
        .configure_mesh()
        .x_desc("generated tokens per prompt (logarithmic)")
        .y_desc("score")
        .x_label_formatter(&|tokens| format!("{tokens:.0}"))
        .y_label_formatter(&|score| format!("{score:.2}"))
        .light_line_style(WHITE)
        .draw()?;
    let mut strategies: Vec<_> = points.iter().map(|point| point.strategy).collect();
    strategies.dedup();
    for (strategy, colour) in strategies.into_iter().zip(std::iter::once(BLACK).chain(COLOURS.into_iter().cycle())) {
        let mut line: Vec<&Point> = points.iter().filter(|point| point.strategy == strategy).collect();
        line.sort_by(|a, b| a.tokens.total_cmp(&b.tokens));
        let place = |point: &Point| (point.tokens.max(1.0), point.prompt_strict.mean);
        let shown =
            chart.draw_series(LineSeries::new(line.iter().map(|point| place(point)), colour.stroke_width(2)))?;
        shown
            .label(strategy_name(strategy))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(line.iter().map(|point| Circle::new(place(point), 4, colour.filled())))?;
        chart.draw_series(line.iter().map(|point| {
            let (tokens, interval) = (point.tokens.max(1.0), point.prompt_strict);
            PathElement::new([(tokens, interval.low), (tokens, interval.high)], colour.stroke_width(1))
        }))?;
        if strategy.is_none() {
            let level = line.first().map_or(0.0, |point| point.prompt_strict.mean);
            chart.draw_series(DashedLineSeries::new([(left, level), (right, level)], 6, 6, colour.mix(0.5).into()))?;
        } else {
            let label = |point: &&Point| {
                EmptyElement::at(place(point))
                    + Text::new(point.budget.to_string(), (7, -16), ("sans-serif", 13).into_font().color(&colour))
            };
            chart.draw_series(line.iter().map(label))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::eval::Trial;
    use crate::eval::report::Run;
    use crate::search::Strategy;
    use crate::verify::Check;
    use crate::verify::data::Prompt;

    #[test]
    fn every_strategy_and_budget_is_in_the_picture() {
        let checks = vec![Check::new("punctuation:no_comma", Map::new()).unwrap()];
        let case = Prompt { key: json!(1), prompt: "p".into(), checks, unchecked: Vec::new() };
        let run = |strategy, budget, tokens| {
            let trials = ["a", "a, b"].map(|text| Trial { tokens, ..Trial::check(&case, text.into()) });
            Run { strategy, budget, trials: trials.into() }
        };
        let runs = [
            run(None, 0, 20),
            run(Some(Strategy::Bfs), 1, 150),
            run(Some(Strategy::Bfs), 16, 700),
            run(Some(Strategy::BestOfN), 4, 300),
        ];
        let svg = scores(&Report::new(&runs)).unwrap();
        for text in ["greedy", "bfs", "best_of_n", ">\n16\n<", "2 prompts"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
    }
}
