// What a run of vitest came to, from its JSON report and its exit code: neither alone tells everything.
import { readFileSync } from "node:fs";

export interface VitestCounts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** What went wrong outside the tests. */
  readonly problem?: string;
}

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  /** Also files that did not load: their tests are counted nowhere. */
  readonly numFailedTestSuites: number;
}

/**
 * Counts of a report, which must have been deleted before the run. A run without a report or without a passed test, a file
 * that did not load and an error outside the tests count as one failure at least.
 */
export function readVitestReport(file: string, exitCode: number): VitestCounts {
  let report: Report;
  try {
    report = JSON.parse(readFileSync(file, "utf8"));
  } catch {
    return { passed: 0, failed: 1, skipped: 0, problem: `vitest left no report; it ended with ${exitCode}` };
  }
  const counts = {
    passed: report.numPassedTests,
    failed: report.numFailedTests,
    skipped: report.numPendingTests + report.numTodoTests,
  };
  if (counts.failed > 0) return counts;
  if (report.numFailedTestSuites > 0) {
    const problem = `${report.numFailedTestSuites} files or groups of tests did not load`;
    return { ...counts, failed: report.numFailedTestSuites, problem };
  }
  if (exitCode !== 0) return { ...counts, failed: 1, problem: "an error outside the tests" };
  if (counts.passed === 0) return { ...counts, failed: 1, problem: "no test ran" };
  return counts;
}
