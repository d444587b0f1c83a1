//! How near the flow comes to a rate that a provider does not tell: `[HOURS]`, two unless told.

use std::process::ExitCode;

use mailweir_simulator::approach::approach;

fn main() -> ExitCode {
    let hours = std::env::args().nth(1).map_or(Some(2), |text| text.parse().ok());
    let Some(hours) = hours.filter(|hours| (1..=24).contains(hours)) else {
        eprintln!("usage: approach [HOURS from 1 to 24]");
        return ExitCode::from(2);
    };
    let mut good = true;
    println!("limit/min  rules                refused  reached  least and most in a minute");
    for limit in [30, 120, 600, 3_000] {
        for (reacts, name) in [(true, "shipped reactions"), (false, "none, fixed at 1.5x")] {
            let run = approach(limit, hours, reacts);
            let (least, most) = run.least_and_most;
            println!(
                "{limit:>9}  {name:<20} {:>5.1} %  {:>5.1} %  {least} to {most}",
                run.refused_permille() as f64 / 10.0,
                run.reached_permille() as f64 / 10.0,
            );
            for text in &run.violations {
                println!("    {text}");
            }
            good &= run.violations.is_empty();
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
