//! Draws curves as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// A named curve. `interval` is the interval around a point, if there is one.
pub(super) struct Curve {
    pub name: String,
    pub points: Vec<Point>,
}

#[derive(Clone, Copy)]
pub(super) struct Point {
    pub x: f64,
    pub y: f64,
    pub interval: Option<(f64, f64)>,
}

/// Colours that differ in grey scale and for colour-blind readers (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Draws curves over one axis. Points are marked if there are few.
pub(super) fn draw(title: &str, x_label: &str, curves: &[Curve]) -> Result<String> {
    let mut svg = String::new();
    let fail = |error: String| anyhow!("drawing {title}: {error}");
    let points = || curves.iter().flat_map(|curve| &curve.points);
    if points().next().is_none() {
        return Ok(svg);
    }
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
    };
    let (left, right) = bounds(&mut points().map(|p| p.x));
    let ends = |p: &Point| p.interval.map_or([p.y, p.y], |(low, high)| [low, high]);
    let (low, high) = bounds(&mut points().flat_map(ends));
    let margin = ((high - low) * 0.08).max(high.abs() * 0.01).max(1e-3);
    {
        let area = SVGBackend::with_string(&mut svg, (560, 320)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| fail(e.to_string()))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(left..right.max(left + 1.0), low - margin..high + margin)
            .map_err(|e| fail(e.to_string()))?;
        let mut mesh = chart.configure_mesh();
        // Steps and rounds are integers.
        let labels = (right - left).clamp(1.0, 8.0) as usize + 1;
        mesh.x_labels(labels)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .x_desc(x_label)
            .light_line_style(WHITE)
            .label_style(("sans-serif", 12));
        mesh.draw().map_err(|e| fail(e.to_string()))?;
        for (curve, colour) in curves.iter().zip(COLOURS.into_iter().cycle()) {
            let line = LineSeries::new(curve.points.iter().map(|p| (p.x, p.y)), colour.stroke_width(2));
            chart
                .draw_series(line)
                .map_err(|e| fail(e.to_string()))?
                .label(curve.name.as_str())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(3)));
            if curve.points.len() <= 12 {
                let marks = curve.points.iter().map(|p| Circle::new((p.x, p.y), 3, colour.filled()));
                chart.draw_series(marks).map_err(|e| fail(e.to_string()))?;
            }
            let bars = curve.points.iter().filter_map(|p| {
                let (low, high) = p.interval?;
                Some(PathElement::new(vec![(p.x, low), (p.x, high)], colour.mix(0.5).stroke_width(2)))
            });
            chart.draw_series(bars).map_err(|e| fail(e.to_string()))?;
        }
        if curves.len() > 1 {
            let mut labels = chart.configure_series_labels();
            labels.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).label_font(("sans-serif", 12));
            labels.draw().map_err(|e| fail(e.to_string()))?;
        }
        area.present().map_err(|e| fail(e.to_string()))?;
    }
    Ok(svg)
}

/// Smooths the values by averaging over 2 % of the run.
pub(super) fn smooth(name: &str, values: &[(f64, f64)]) -> Curve {
    let window = values.len() / 50 + 1;
    let points = values.windows(window).map(|w| Point {
        x: w[w.len() - 1].0,
        y: w.iter().map(|v| v.1).sum::<f64>() / w.len() as f64,
        interval: None,
    });
    Curve { name: name.into(), points: points.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_become_lines_and_nothing_becomes_nothing() {
        let curve = smooth("loss", &(0..200).map(|i| (f64::from(i), 1.0 / (1.0 + f64::from(i)))).collect::<Vec<_>>());
        let point = |x, y| Point { x, y, interval: Some((y - 0.1, y + 0.1)) };
        let scores = Curve { name: "greedy".into(), points: vec![point(0.0, 0.5), point(1.0, 0.6)] };
        let svg = draw("scores", "round", &[scores]).unwrap();
        assert!(svg.starts_with("<svg") && svg.matches("<circle").count() == 2);
        assert!(draw("loss", "step", &[curve]).unwrap().contains("<polyline"));
        assert!(draw("none", "step", &[]).unwrap().is_empty());
    }
}
