import java.util.ArrayList;
import java.util.List;
import java.util.Scanner;

/** A Java program with a heap of known content: one line of JSON, then `N` on input makes N more sessions. */
public class Planter {
    static class Session {
        final long[] data = new long[10];
    }

    static final List<Session> HELD = new ArrayList<>();

    public static void main(String[] arguments) {
        int count = Integer.parseInt(arguments[0]);
        for (int i = 0; i < count; i++) HELD.add(new Session());
        System.out.println("{\"Session\": " + count + "}");
        System.out.flush();
        Scanner input = new Scanner(System.in);
        while (input.hasNextInt()) {
            for (int i = input.nextInt(); i > 0; i--) HELD.add(new Session());
            System.out.println("grown");
            System.out.flush();
        }
    }
}
